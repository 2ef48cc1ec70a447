"""Objectives on top of a trained world model: steps to a goal, and the slow level."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.worldmodel.objectives.moving_points import draw, settled_model, world_model
from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.dynamics.registry import build_slow
from worldmodel.models.dynamics.slow import SlowConfig
from worldmodel.models.value import ValueConfig, ValueHead
from worldmodel.objectives.base import Objective
from worldmodel.objectives.predictions import PredictionConfig
from worldmodel.objectives.slow_dynamics import SlowLatentDynamics
from worldmodel.objectives.value import TemporalDistance, TemporalDistanceConfig, expectile_loss


def train(objective: Objective, updates: int, **sizes: int) -> None:
    objective.train()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    for step in range(updates):
        loss = objective(draw(step, **sizes))["loss"]
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
    objective.eval()


def distances(**settings: Any) -> TemporalDistance:
    torch.manual_seed(0)
    value = ValueHead(ValueConfig(hidden=64), 8)
    return TemporalDistance(settled_model(), value, TemporalDistanceConfig(**settings), 0, window=8)


def test_an_expectile_is_the_mean_at_one_half_and_a_low_one_the_least() -> None:
    samples = torch.tensor([2.0, 2.0, 4.0, 8.0])

    def fitted(expectile: float) -> float:
        grid = torch.linspace(0, 10, 10001)
        losses = torch.stack([expectile_loss(value.expand(4), samples, expectile) for value in grid])
        return float(grid[losses.argmin()])

    assert fitted(0.5) == pytest.approx(4.0, abs=2e-3)
    assert fitted(1e-4) == pytest.approx(2.0, abs=2e-2)
    assert fitted(0.9) > 6


def test_steps_to_a_goal_are_learned_from_later_steps_of_the_same_window() -> None:
    batch, means = draw(10**6, steps=8), {}
    for expectile in (0.5, 0.1):
        objective = distances(expectile=expectile, other_goals=0.0)
        before = objective.monitor(batch)
        train(objective, 160, steps=8)
        after = objective.monitor(batch)
        if expectile == 0.5:
            assert after["distance_error"] < 0.85 * before["distance_error"]
            assert after["distance_correlation"] > 0.5 > before["distance_correlation"]
        with torch.no_grad():
            z = objective.model.latents(batch.views[0])
            to_itself, to_the_end = (float(objective.value(z[:, 0], z[:, t]).mean()) for t in (0, 8))
        assert to_itself < 0.6 * to_the_end
        means[expectile] = to_the_end
    assert means[0.1] < 0.7 * means[0.5]  # fewer steps than these wanderings took would do


def test_goals_are_at_or_after_their_step_and_keyed_by_the_sample() -> None:
    objective = distances()
    goals = torch.stack([objective._goals(sample, 9) for sample in range(200)])
    assert (goals >= torch.arange(9)).all()
    for t in range(9):
        assert set(goals[:, t].tolist()) == set(range(t, 9))
    batch = draw(0, size=8, steps=8)
    whole = objective(batch)["loss"]
    halves = [objective(part)["loss"] for part in batch.split(2)]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_goals_of_other_samples_are_beyond_the_window() -> None:
    objective = distances(other_goals=0.5)
    seen: dict[str, torch.Tensor] = {}

    def spy(latents: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        seen.update(latents=latents, goals=goals)
        return torch.zeros(latents.shape[:2])

    objective.value.normalised = spy  # type: ignore[method-assign]
    batch = draw(0, size=5, steps=8)
    loss = objective(batch)["loss"]
    z = objective.model.latents(batch.views[0])
    own, other = ((seen["goals"][:, :, None] == z[rows][:, None]).flatten(3).all(3) for rows in (
        slice(None), [1, 0, 3, 2, 3]))  # fmt: skip
    apart = own.float().argmax(dim=2) - torch.arange(9)
    assert (own.any(2) ^ other.any(2)).all() and 0.3 < float(other.any(2).float().mean()) < 0.7
    steps = torch.where(other.any(2), 9, apart).float()
    assert float(loss) == pytest.approx(float((0.1 * objective.value.normalise(steps) ** 2).mean()), rel=1e-5)
    assert float(objective(draw(0, size=1, steps=8))["loss"]) > 0  # which has no other


def test_the_world_model_below_is_not_touched() -> None:
    torch.manual_seed(0)
    slow = build_slow(SlowConfig(steps=2, hidden=16), MLPDynamicsConfig(hidden=16), 1, 8, 1, 2)
    for objective in (distances(), SlowLatentDynamics(world_model(), slow, PredictionConfig(), 0)):
        before = {name: value.clone() for name, value in objective.model.state_dict().items()}
        train(objective, 3)
        for name, value in objective.model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not objective.train().model.training


def test_a_reward_head_has_no_distances() -> None:
    head = ValueHead(ValueConfig(target="reward"), 8)
    with pytest.raises(ValueError, match="value.target='reward' has no distances; set value.target=distance"):
        TemporalDistance(world_model(), head, TemporalDistanceConfig(), 0, window=4)
    with pytest.raises(ValueError, match="expectile=1.0 must be between"):
        TemporalDistanceConfig(expectile=1.0)


def test_the_slow_level_predicts_every_kth_step_from_macro_actions() -> None:
    torch.manual_seed(0)
    slow = build_slow(SlowConfig(steps=3, macro_dim=2, hidden=16), MLPDynamicsConfig(hidden=32), 1, 8, 1, 2)
    objective = SlowLatentDynamics(world_model(), slow, PredictionConfig(), 0).eval()
    batch = draw(0, steps=7)
    assert batch.actions is not None
    losses = objective(batch)
    z = objective.model.latents(batch.views[0])[:, [0, 3, 6]]
    macro = torch.stack([slow.encoder(batch.actions[:, 0:3]), slow.encoder(batch.actions[:, 3:6])], dim=1)
    forced = slow.dynamics(z[:, :-1], macro[:, :, None])
    torch.testing.assert_close(losses["teacher_forcing"], F.mse_loss(forced, z[:, 1:]))
    second = slow.dynamics(forced[:, :1], macro[:, 1:, None])
    rolled = torch.cat([forced[:, :1], second], dim=1)
    torch.testing.assert_close(losses["rollout"], F.mse_loss(rolled, z[:, 1:]))


def test_the_slow_level_learns_from_actions() -> None:
    torch.manual_seed(0)
    slow = build_slow(SlowConfig(steps=2, macro_dim=3, hidden=32), MLPDynamicsConfig(hidden=64), 1, 8, 1, 2)
    objective = SlowLatentDynamics(settled_model(), slow, PredictionConfig(), 0)
    train(objective, 300)
    figures = objective.monitor(draw(10**6))
    assert figures["open_loop_ratio"] < 0.7
    assert figures["action_sensitivity"] > 0.3


def test_a_window_shorter_than_a_slow_step_is_refused() -> None:
    slow = build_slow(SlowConfig(steps=5), MLPDynamicsConfig(hidden=16), 1, 8, 1, 2)
    objective = SlowLatentDynamics(world_model(), slow, PredictionConfig(), 0)
    batch = draw(0)
    with pytest.raises(ValueError, match="a window of 4 steps is shorter than a slow step of 5"):
        objective(batch)
