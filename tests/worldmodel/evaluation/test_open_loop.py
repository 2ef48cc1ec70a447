"""Open-loop errors of models whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.worldmodel.evaluation.moving_point import DEAF, EXACT, episodes
from worldmodel.evaluation.open_loop import LinearDynamics, open_loop, starts_of
from worldmodel.evaluation.trajectories import Imagination, Trajectory


def test_the_true_dynamics_beat_all_baselines_and_a_deaf_model_equals_the_copy() -> None:
    held_out, train = episodes(8, wall=True), episodes(20, first=100, wall=True)
    found = open_loop(EXACT, held_out, train, (1, 5, 10))
    for at in found["at"].values():
        for name in ("copy_last", "linear", "mean"):
            assert at["model"] < at[name]
            assert at["ratio"][name]["interval"][1] < 1
    assert found["at"]["10"]["ratio"]["copy_last"]["value"] < 0.2
    deaf = open_loop(DEAF, held_out, train, (1, 5, 10))
    assert deaf["error"]["model"] == deaf["error"]["copy_last"]
    assert deaf["at"]["5"]["ratio"]["copy_last"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert deaf["error"]["mean"] == found["error"]["mean"]


def linear_episodes(count: int, tokens: int) -> list[Trajectory]:
    torch.manual_seed(0)
    mix, push = 0.2 * torch.randn(3, 3), torch.randn(2, 3)
    found = []
    for position in range(count):
        actions = torch.randn(12, 1, 2)
        steps = [torch.randn(tokens, 3)]
        for action in actions:
            steps.append(steps[-1] + steps[-1] @ mix + action @ push)
        found.append(Trajectory(position, np.zeros((13, 3, 2, 2), np.uint8), actions, torch.stack(steps)))
    return found


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_linear_world_is_predicted_by_linear_dynamics(tokens: int) -> None:
    data = linear_episodes(30, tokens)
    fitted = LinearDynamics.fit(data[:25])
    imagined = fitted.rollout(data[25].latents[:1], data[25].actions[None])
    assert torch.allclose(imagined[0], data[25].latents[1:], atol=0.05 * float(data[25].latents.std()))


def test_the_squared_errors_are_means_over_starts_then_episodes() -> None:
    held_out = episodes(3, steps=6)
    found = open_loop(DEAF, held_out, episodes(4, first=50), (4,), starts=2)
    by_hand = []
    for episode in held_out:
        errors = [
            (episode.latents[t + 1 : t + 5] - episode.latents[t]).square().mean(dim=(1, 2)) for t in (0, 2)
        ]
        by_hand.append(torch.stack(errors).mean(dim=0))
    expected = torch.stack(by_hand).mean(dim=0).sqrt()
    assert np.allclose(found["error"]["model"]["rms"], expected.numpy(), atol=1e-6)
    assert found["starts"] == 6 and found["episodes"] == 3


def test_starts_leave_room_for_context_and_horizon() -> None:
    assert starts_of(10, 1, 10, 4) == [0]
    assert starts_of(10, 3, 9, 4) == []
    assert starts_of(10, 3, 2, 3) == [2, 5, 8]


def test_horizons_that_no_episode_has_are_said_to_be_missing() -> None:
    held_out, train = episodes(3, steps=6), episodes(3, first=50)
    found = open_loop(DEAF, held_out, train, (1, 25))
    assert list(found["at"]) == ["1"] and found["missing"] == [25]
    with pytest.raises(ValueError, match="6 model steps, too few"):
        open_loop(DEAF, held_out, train, (7,))


def test_context_is_what_stands_before_the_start() -> None:
    seen = []

    def rollout(context: torch.Tensor, past: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        seen.append((context.shape[1], past.shape[1]))
        assert torch.equal(context[0, -1], held_out[0].latents[2])
        assert torch.equal(past[0], held_out[0].actions[:2])
        return context[:, None, -1:].expand(-1, plans.shape[1], plans.shape[2], -1, -1)

    held_out = episodes(1, steps=7)
    model = Imagination(DEAF.encode, rollout, context=3)
    open_loop(model, held_out, episodes(2, first=9), (5,))
    assert seen == [(3, 2)]
