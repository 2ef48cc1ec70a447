"""Value heads and slow levels whose qualities are known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.worldmodel.evaluation.moving_point import DEAF, episodes
from worldmodel.evaluation.levels import slow_open_loop, steps_to_go
from worldmodel.evaluation.trajectories import Imagination, Trajectory
from worldmodel.models.dynamics import MLPDynamicsConfig, SlowConfig, build_slow


def clocks(count: int = 5, steps: int = 20) -> list[Trajectory]:
    """Episodes whose latent is the time, and its square: the second one makes distances grow with the time of day."""
    time = torch.arange(steps + 1.0)
    latents = torch.stack([time, time.square()], dim=-1)[:, None]
    return [dataclasses.replace(e, latents=latents) for e in episodes(count, steps)]


def by_the_clock(here: Tensor, goal: Tensor) -> Tensor:
    return goal[:, 0, 0] - here[:, 0, 0]


def test_a_head_that_knows_the_steps_is_right_and_asked_forwards_in_time() -> None:
    found = steps_to_go(by_the_clock, clocks(), window=6, pairs=400)
    assert found["episodes"] == 5 and found["longest"] == 20
    for part in ("window", "all"):
        assert found[part]["rho"] == pytest.approx(1) and found[part]["error"] == 0
        assert found[part]["interval"] == pytest.approx([1, 1])
        assert 0.5 < found[part]["latent_rho"] < 0.99
    assert found["window"]["pairs"] < found["all"]["pairs"] == 400


def test_a_head_that_guesses_has_no_rank_correlation() -> None:
    def guess(here: Tensor, goal: Tensor) -> Tensor:
        return torch.rand(len(here), generator=torch.Generator().manual_seed(1))

    found = steps_to_go(guess, clocks(20), window=6, pairs=1000)
    low, high = found["all"]["interval"]
    assert low < 0 < high and abs(found["all"]["rho"]) < 0.15 and found["all"]["error"] > 3
    with pytest.raises(ValueError, match="no held-out episode has a single step"):
        still = [dataclasses.replace(e, latents=e.latents[:1], actions=e.actions[:0]) for e in clocks(2)]
        steps_to_go(guess, still, window=6)


class _Exact(torch.nn.Module):
    """A slow level whose macro-action is the sum of the actions, for a world without walls or borders."""

    def __init__(self, context: int = 1) -> None:
        super().__init__()
        self.encoder = build_slow(SlowConfig(steps=4, macro_dim=2), MLPDynamicsConfig(), 1, 2, 1, 2).encoder
        self.context = context

    def encode_actions(self, actions: Tensor) -> Tensor:
        return actions.sum(dim=(-3, -2))[..., None, :]

    def rollout(self, context: Tensor, past: Tensor, plans: Tensor) -> Tensor:
        assert past.shape[1:] == (context.shape[1] - 1, 1, 2)
        if context.shape[1] > 1:  # the past leads from one step of the context to the next
            assert torch.allclose(context[:, :-1, 0] + past[:, :, 0], context[:, 1:, 0], atol=1e-4)
        return context[:, None, -1:] + plans.cumsum(dim=2)


def walks(count: int = 4, steps: int = 21) -> list[Trajectory]:
    """Latents that are the sum of the actions."""
    found = []
    for e in episodes(count, steps):
        place = torch.cat([torch.zeros(1, 1, 2), e.actions.cumsum(dim=0)])
        found.append(dataclasses.replace(e, latents=place))
    return found


@pytest.mark.parametrize("context", [1, 3])
def test_a_slow_level_that_is_right_beside_a_model_that_is_not(context: int) -> None:
    found = slow_open_loop(_Exact(context), DEAF, walks(), horizon=4)  # type: ignore[arg-type]
    assert found["steps"] == [4, 8, 12, 16] and found["episodes"] == 4 and found["starts"] == 16
    assert max(found["slow"]) < 1e-5 < min(found["flat"]) and found["flat"] == found["copy_last"]
    assert found["ratio"]["value"] < 1e-4
    short = slow_open_loop(_Exact(), DEAF, walks(steps=9), horizon=4)  # type: ignore[arg-type]
    assert short["steps"] == [4, 8]
    assert slow_open_loop(_Exact(), DEAF, walks(steps=3)) == {}  # type: ignore[arg-type]


def test_the_model_below_is_rolled_out_over_the_same_moments() -> None:
    def adds(context: Tensor, past: Tensor, plans: Tensor) -> Tensor:
        return context[:, None, -1:] + plans.cumsum(dim=2)

    slow = build_slow(SlowConfig(steps=5), MLPDynamicsConfig(hidden=8), 1, 2, 1, 2).eval()
    found = slow_open_loop(slow, Imagination(DEAF.encode, adds), walks(), horizon=2)
    assert max(found["flat"]) < 1e-5 < min(found["slow"])
    assert found["ratio"]["value"] > 1e4
