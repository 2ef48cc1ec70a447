"""What a world model's dynamics predict on a window of training data, and how far off they are."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.objectives.base import Batch
from worldmodel.seeding import keyed_rng

DISTANCES = ("l1", "l2", "smooth_l1", "cosine")


@dataclass
class PredictionConfig:
    """The losses of predictions; what has weight 0 is not computed."""

    #: Weight of the loss on predictions from true latents.
    teacher_forcing: float = 1.0
    #: Weight of the loss on predictions from predictions.
    rollout: float = 1.0
    #: Steps of the rollout; 0: all that the window has.
    rollout_steps: int = 0
    #: True latents that the rollout begins with; 0: any number, drawn each step.
    rollout_context: int = 1
    #: "through": gradients of the rollout pass through its steps. "stop": each prediction is an input like any other.
    rollout_gradient: str = "through"
    #: Distance of prediction and target: "l1", "l2", "smooth_l1" or "cosine".
    loss: str = "l2"
    #: "layer": targets are normalised over the features of each token. "none": they are the latents.
    target_norm: str = "none"
    #: Whether gradients reach the targets too. Without, an encoder learns from its latents as inputs only.
    target_gradient: bool = True

    def __post_init__(self) -> None:
        if min(self.teacher_forcing, self.rollout) < 0 or self.teacher_forcing + self.rollout == 0:
            raise ValueError(
                "objective weights must not be negative, and one of teacher_forcing and rollout positive"
            )
        for name, known in {
            "loss": DISTANCES,
            "target_norm": ("none", "layer"),
            "rollout_gradient": ("through", "stop"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        if min(self.rollout_steps, self.rollout_context) < 0:
            raise ValueError("objective.rollout_steps and rollout_context must not be negative")

    def span(self, length: int, seed: int, step: int) -> tuple[int, int]:
        """Where the rollout starts in a window of ``length`` steps, and its steps; the same in every process.

        Raises:
            ValueError: The window is too short.
        """
        steps, context = self.rollout_steps, self.rollout_context
        last = length + 1 - max(1, steps)
        if last < max(1, context):
            raise ValueError(
                f"objective.rollout_context={context} and rollout_steps={steps} need a longer window than "
                f"{length}; set window={max(1, context) + max(1, steps) - 1} or more"
            )
        start = context or int(keyed_rng("rollout", seed, step).integers(1, last + 1))
        return start, steps or length + 1 - start

    def targets(self, latents: Tensor) -> Tensor:
        """What is to be predicted of ``latents (..., Z)``."""
        targets = latents if self.target_gradient else latents.detach()
        if self.target_norm == "layer":
            return F.layer_norm(targets.float(), targets.shape[-1:])
        return targets


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

    Dynamics that predict whole prefixes of a plan (Fast-LeWM) predict them all from the last true latent, as in
    planning; the mean of their distances is the mean over prefixes. Windows longer than their longest go on from there.

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
    longest = getattr(dynamics, "context", start)
    at_once = steps
    if not through:
        at_once = dynamics.config.prefix if hasattr(dynamics, "predict_prefixes") else 1
    known, predicted = latents[:, max(0, start - longest) : start], []
    for now in range(start - 1, start - 1 + steps, at_once):
        past = actions[:, now + 1 - known.shape[1] : now]
        plan = actions[:, now : min(now + at_once, start - 1 + steps)]
        predicted.append(dynamics.rollout(known, past, plan[:, None])[:, 0])
        if now + at_once < start - 1 + steps:
            known = torch.cat([known, predicted[-1].detach().to(known.dtype)], dim=1)[:, -longest:]
    return torch.cat(predicted, dim=1) if len(predicted) > 1 else predicted[0]


def prediction_losses(
    dynamics: nn.Module, latents: Tensor, actions: Tensor, config: PredictionConfig, span: tuple[int, int]
) -> dict[str, Tensor]:
    """``teacher_forcing`` and ``rollout``, those that have a weight: the means over an ensemble's members.

    Args:
        dynamics: Any of ``worldmodel.models.dynamics``, or an ensemble of them.
        latents: ``(B, T+1, N, Z)``.
        actions: ``(B, T, K, A)``.
        config: Weights, distance and targets.
        span: Where the rollout starts, and its steps: ``PredictionConfig.span``.
    """
    (start, steps), through = span, config.rollout_gradient == "through"
    forced, rolled = [], []
    for member in members_of(dynamics):
        if config.teacher_forcing:
            forced.append(member(latents[:, :-1], actions))
        if config.rollout:
            rolled.append(rolled_out(member, latents, actions, start, steps, through))
    wanted, parts = config.targets(latents[:, 1:]), {}
    if forced:
        parts["teacher_forcing"] = mean_of([latent_distance(x, wanted, config.loss) for x in forced])
    if rolled:
        ahead = wanted[:, start - 1 : start - 1 + steps]
        parts["rollout"] = mean_of([latent_distance(x, ahead, config.loss) for x in rolled])
    return parts


@torch.no_grad()
def prediction_monitors(
    dynamics: Any, latents: Tensor, actions: Tensor, config: PredictionConfig
) -> dict[str, float]:
    """How well a batch is predicted, as root mean squares.

    ``open_loop_error``: of the last step, rolled out from the first. ``copy_last_error``: of the guess that nothing
    moves. ``open_loop_ratio``: the first over the second. ``action_sensitivity``: how far one-step predictions are from
    those with another sample's actions, over how far latents move in a step; 0: the actions are ignored.
    """
    wanted = config.targets(latents)
    rolled = rolled_out(dynamics, latents, actions, 1, actions.shape[1]).float()
    error, stays = _rms(rolled[:, -1] - wanted[:, -1]), _rms(wanted[:, 0] - wanted[:, -1])
    figures = {
        "open_loop_error": error,
        "copy_last_error": stays,
        "open_loop_ratio": error / max(stays, 1e-12),
    }
    if len(latents) > 1:
        forced, others = (dynamics(latents[:, :-1], x).float() for x in (actions, actions.roll(1, dims=0)))
        change = _rms(wanted[:, 1:] - wanted[:, :-1])
        figures["action_sensitivity"] = _rms(forced - others) / max(change, 1e-12)
    return figures


def sum_of(values: list[Tensor]) -> Tensor:
    """The sum of one or more scalars, from left to right."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def mean_of(values: list[Tensor]) -> Tensor:
    """The mean of one or more scalars."""
    return sum_of(values) / len(values)


def latents_of(model: Any, batch: Batch) -> Tensor:
    """Latents ``(B, T+1, N, Z)`` of a batch's first view, frames or cached tokens, with gradient."""
    latents: Tensor = model.latents(batch.views[0], batch.proprio)
    return latents


def _rms(gap: Tensor) -> float:
    return float(gap.square().mean().sqrt())


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
