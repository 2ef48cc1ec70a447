"""What a world model's dynamics predict on a window of training data, and how far off they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DISTANCES = ("l1", "l2", "smooth_l1", "cosine")


def latent_distance(predicted: Tensor, wanted: Tensor, kind: str) -> Tensor:
    """The mean distance of latents ``(..., Z)``, in float32 also under autocast.

    Args:
        predicted: What the dynamics say.
        wanted: What they should say, of the same shape.
        kind: One of ``DISTANCES``: absolute, squared, squared up to 1 and absolute above, or 1 - cosine.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, wanted = predicted.float(), wanted.float()
        if kind == "l2":
            return F.mse_loss(predicted, wanted)
        if kind == "l1":
            return F.l1_loss(predicted, wanted)
        if kind == "smooth_l1":
            return F.smooth_l1_loss(predicted, wanted)
        return 1 - F.cosine_similarity(predicted, wanted, dim=-1, eps=1e-6).mean()


def members_of(dynamics: nn.Module) -> list[Any]:
    """The members of an ensemble, or the dynamics themselves: each has a loss of its own."""
    return list(getattr(dynamics, "members", None) or [dynamics])


def rolled_out(
    dynamics: Any, latents: Tensor, actions: Tensor, start: int, steps: int, through: bool = True
) -> Tensor:
    """Predictions from predictions ``(B, steps, N, Z)`` of the latents ``start`` to ``start + steps - 1``.

    Args:
        dynamics: Any of ``worldmodel.models.dynamics``.
        latents: ``(B, T+1, N, Z)``; the rollout sees the first ``start`` of them, or as many of the last of these as
            the dynamics' context holds.
        actions: ``(B, T, K, A)``.
        start: From 1: how many true latents are before the rollout.
        steps: How many to predict.
        through: Whether gradients pass from a prediction to those that it was made from. Without, each prediction is
            an input like any other (JEPA-WM, 2512.24497): shorter gradients, and one rollout per step.
    """
    longest = getattr(dynamics, "context", None) or start
    known = latents[:, max(0, start - longest) : start]
    if through:
        past, plan = (
            actions[:, start - known.shape[1] : start - 1],
            actions[:, start - 1 : start - 1 + steps],
        )
        return dynamics.rollout(known, past, plan[:, None])[:, 0]
    predicted: list[Tensor] = []
    for now in range(start, start + steps):
        past, plan = actions[:, now - known.shape[1] : now - 1], actions[:, now - 1 : now]
        predicted.append(dynamics.rollout(known, past, plan[:, None])[:, 0])
        known = torch.cat([known, predicted[-1].detach().to(known.dtype)], dim=1)[:, -longest:]
    return torch.cat(predicted, dim=1)


class InverseDynamics(nn.Module):
    """Which actions led from one latent to the next: ``(B, T+1, N, Z)`` to normalised actions ``(B, T, K * A)``.

    Trained with the world model, it keeps in the latent what the actions change (PLDM, 2502.14819; without it, latents
    can settle for what changes slowly). It belongs to the objective: a trained world model does without it.

    Args:
        features: ``N * Z`` of the latent.
        actions: ``K * A``.
        hidden: Features of its two hidden layers.
    """

    def __init__(self, features: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, actions),
        )

    def forward(self, latents: Tensor) -> Tensor:
        flat = latents.flatten(2)
        return self.mlp(torch.cat([flat[:, :-1], flat[:, 1:]], dim=-1))
