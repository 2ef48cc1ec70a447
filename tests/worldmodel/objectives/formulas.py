"""For tests of systems against formulas: a moving average that is behind, and losses with all their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.worldmodel.objectives.systems import batch_of, settings, small
from worldmodel.objectives.base import Batch


def made(name: str, *changes: str) -> tuple[Any, Batch]:
    """An objective in training, and six clips."""
    config = settings(name, *changes)
    objective = small(config)
    generator = torch.Generator().manual_seed(1)
    for part, network in objective.parts().items():
        if part.startswith("target_"):
            shaken(network, generator)
    return objective.train(), batch_of(range(6), config.mask, step=3)


@torch.no_grad()
def shaken(network: nn.Module, generator: torch.Generator) -> None:
    for parameter in network.parameters():
        parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))


def mean_token(encoder: Any, clip: Tensor) -> Tensor:
    tokens: Tensor = encoder.encode(clip).flatten(1, 2)
    return tokens.sum(dim=1) / tokens.shape[1]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def same_loss_and_gradients(
    objective: Any, batch: Batch, formula: Callable[[Any, Batch], Tensor], rtol: float = 2e-3
) -> None:
    """Equal losses, and equal gradients of all that is trained. The formula comes first: it changes no state."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    wanted = formula(objective, batch)
    found = objective(batch)["loss"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=2e-4 * scale)
