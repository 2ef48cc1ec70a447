"""Every kind of dynamics learns a small world from its initialisation, and what it is said to be able to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models import dynamics as D

SMALL: dict[str, Any] = {"depth": 1, "heads": 2, "head_width": 16, "mlp_hidden": 64}
CONFIGS: dict[str, Any] = {
    "mlp": D.MLPDynamicsConfig(hidden=64),
    "gru": D.GRUDynamicsConfig(),
    "adaln": D.AdaLNDynamicsConfig(width=32, **SMALL),
    "concat": D.ConcatDynamicsConfig(**SMALL),
    "block_causal": D.BlockCausalDynamicsConfig(width=32, **SMALL),
    "prefix": D.PrefixDynamicsConfig(width=32, hidden=64, fusion=32, layers=2, **SMALL),
}


WIDTH = 12


def windows(count: int, velocity: bool) -> tuple[Tensor, Tensor]:
    """Points that actions move, or push: latents ``(B, 5, 1, Z)`` of their places, actions ``(B, 4, 1, 2)``."""
    actions = 30 * torch.randn(count, 4, 1, 2) + 10
    moves = 0.3 * (actions - 10) / 30
    if velocity:
        moves = moves + 0.4 * torch.randn(count, 1, 1, 2)
    start = torch.rand(count, 1, 1, 2) - 0.5
    places = torch.cat([start, start + moves.cumsum(dim=1)], dim=1)
    seen = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    return F.layer_norm(places @ seen[:2] + seen[2], (WIDTH,)), actions


def error_after(dynamics: Any, velocity: bool, steps: int) -> float:
    """Of a rollout of 3 steps from 2 in unseen windows, relative to a prediction that nothing moves."""
    optimiser = torch.optim.Adam(dynamics.parameters(), 5e-3)
    dynamics.set_statistics(windows(500, velocity)[1])

    def rolled(latents: Tensor, actions: Tensor) -> Tensor:
        return dynamics.rollout(latents[:, :2], actions[:, :1], actions[:, None, 1:])[:, 0]

    for _ in range(steps):
        latents, actions = windows(48, velocity)
        optimiser.zero_grad()
        (rolled(latents, actions) - latents[:, 2:]).square().mean().backward()
        optimiser.step()
    latents, actions = windows(256, velocity)
    with torch.no_grad():
        gap = rolled(latents, actions)[:, -1] - latents[:, -1]
    return float((gap.square().mean() / (latents[:, 1] - latents[:, -1]).square().mean()).sqrt())


def build(kind: str) -> Any:
    torch.manual_seed(0)
    return D.build_dynamics(CONFIGS[kind], 1, WIDTH, 1, 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_learns_what_actions_do(kind: str) -> None:
    steps = {"gru": 250, "prefix": 160}.get(kind, 80)
    assert error_after(build(kind), velocity=False, steps=steps) < 0.4


@pytest.mark.parametrize("kind", ["adaln", "concat", "block_causal"])
def test_transformers_see_velocities_in_their_context(kind: str) -> None:
    """One step does not show a velocity: the same transformer with a context of 1 cannot know it."""
    ours = build(kind)
    blind = build(kind)
    blind.context = 1
    assert error_after(ours, velocity=True, steps=200) < 0.6 * error_after(blind, velocity=True, steps=100)
