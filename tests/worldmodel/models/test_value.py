"""The value head: shapes, units, that it learns steps-to-go, mistakes."""

from __future__ import annotations

import pytest
import torch

from worldmodel.models.value import ValueConfig, ValueHead


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("target", ["distance", "reward"])
def test_shapes_broadcasting_and_lower_precision(tokens: int, target: str) -> None:
    torch.manual_seed(0)
    head = ValueHead(ValueConfig(target=target, hidden=16), width=4)
    latents, goals = torch.randn(2, 3, 6, tokens, 4), torch.randn(2, tokens, 4)
    value = head(latents, goals[:, None, None])
    assert value.shape == (2, 3, 6)
    torch.testing.assert_close(value[1, 2], head(latents[1, 2], goals[1].expand(6, -1, -1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head(latents, goals[:, None, None])
    assert half.dtype == torch.float32
    assert torch.isfinite(half).all()


def test_values_are_in_the_units_of_the_targets() -> None:
    torch.manual_seed(0)
    latents, goals = torch.randn(7, 1, 4), torch.randn(7, 1, 4)
    for target in ("distance", "reward"):
        head = ValueHead(ValueConfig(target=target), width=4)
        seen = torch.rand(100) * 40 + (0 if target == "distance" else -100)
        head.set_statistics(seen)
        torch.testing.assert_close(head.normalise(head(latents, goals)), head.normalised(latents, goals))
        wanted = head.normalise(seen)
        scale = wanted.square().mean().sqrt() if target == "distance" else wanted.std()
        torch.testing.assert_close(scale, torch.ones(()))
    head = ValueHead(ValueConfig(), width=4)
    head.set_statistics(torch.arange(20))
    assert float(head.normalise(torch.zeros(()))) == 0
    assert (head(latents * 100, goals) >= 0).all()


def test_it_learns_how_far_a_goal_is() -> None:
    torch.manual_seed(0)
    head = ValueHead(ValueConfig(hidden=64), width=2)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    latents, goals = torch.randn(2, 512, 1, 2).unbind(0)
    steps = 10 * (latents - goals).norm(dim=-1)[:, 0]
    head.set_statistics(steps)
    for _ in range(200):
        optimiser.zero_grad()
        (head.normalised(latents, goals) - head.normalise(steps)).square().mean().backward()
        optimiser.step()
    held_out, others = torch.randn(2, 256, 1, 2).unbind(0)
    truth = 10 * (held_out - others).norm(dim=-1)[:, 0]
    error = (head(held_out, others) - truth).square().mean().sqrt()
    assert error < 0.25 * truth.std()


def test_mistakes_are_named() -> None:
    head = ValueHead(ValueConfig(), width=4)
    with pytest.raises(ValueError, match="Z = 4"):
        head(torch.randn(2, 1, 5), torch.randn(2, 1, 5))
    with pytest.raises(ValueError, match="same N"):
        head(torch.randn(2, 3, 4), torch.randn(2, 1, 4))
    with pytest.raises(ValueError, match="value.target='cost' is unknown"):
        ValueConfig(target="cost")
    with pytest.raises(ValueError, match="at least 1"):
        ValueConfig(layers=0)
