"""Rank correlation of costs that order rightly, at random, and not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.worldmodel.evaluation.moving_point import DEAF, EXACT, episodes
from worldmodel.evaluation.plannability import euclidean, plannability, sample_pairs

DISTANCE = euclidean([0, 1])


def by_state(states: np.ndarray, frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(states).float()[:, None]


def by_chance(states: np.ndarray, frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(len(states)).normal(size=(len(states), 1, 8))).float()


def test_a_latent_that_is_the_state_has_rho_one_everywhere() -> None:
    found, points = plannability(episodes(6, latents=by_state), DISTANCE, pairs=300)
    for part in ("within", "across", "all"):
        assert found[part]["rho"] == pytest.approx(1, abs=1e-5)
        assert all(b["rho"] > 0.999 for b in found[part]["bins"])
    assert found["all"]["pairs"] == sum(b["pairs"] for b in found["all"]["bins"]) == 600
    # Root mean square over the latent's two elements.
    assert np.allclose(points["cost"] * 2**0.5, points["true"], atol=1e-4)


def test_chance_is_zero_inside_its_interval_and_a_constant_orders_nothing() -> None:
    data = [
        dataclasses.replace(
            e, latents=torch.randn(21, 1, 8, generator=torch.Generator().manual_seed(e.position))
        )
        for e in episodes(20)
    ]
    found, _ = plannability(data, DISTANCE, pairs=500)
    low, high = found["all"]["interval"]
    assert low < 0 < high and high - low < 0.4
    constant = [dataclasses.replace(e, latents=torch.ones(21, 1, 8)) for e in data]
    assert plannability(constant, DISTANCE, pairs=100)[0]["all"]["rho"] == 0


def test_imagined_moments_cost_what_true_ones_do_where_the_dynamics_are_true() -> None:
    data = episodes(6, wall=True)
    true, _ = plannability(data, DISTANCE, pairs=400)
    imagined, _ = plannability(data, DISTANCE, pairs=400, model=EXACT, horizon=5)
    deaf, _ = plannability(data, DISTANCE, pairs=400, model=DEAF, horizon=5)
    assert imagined["all"]["rho"] > 0.9
    assert deaf["all"]["rho"] < imagined["all"]["rho"] - 0.05
    assert true["all"]["rho"] > 0.9


def test_any_other_cost_can_be_asked_for() -> None:
    """A head that knows the true distance, over latents whose own distance orders nothing."""
    data = [
        dataclasses.replace(e, latents=by_state(e.states, e.frames))
        for e in episodes(6)
        if e.states is not None
    ]

    def backwards(here: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        return -(here - goals).norm(dim=-1)[:, 0]

    found, _ = plannability(data, DISTANCE, pairs=300, cost_of=backwards)
    assert found["within"]["rho"] == pytest.approx(-1, abs=1e-5)


def test_pixels_are_blind_beyond_an_overlap() -> None:
    found, _ = plannability(episodes(8), DISTANCE, pairs=400, pixels=True)
    assert found["all"]["bins"][0]["rho"] > 0.5
    assert abs(found["all"]["bins"][-1]["rho"]) < 0.4


def test_pairs_are_of_two_moments_and_the_same_for_every_model() -> None:
    within, across = (sample_pairs([5, 3, 9], 500, kind, 0) for kind in (True, False))
    assert (within[:, 0] == within[:, 2]).all() and (within[:, 1] != within[:, 3]).all()
    assert (across[:, 0] != across[:, 2]).all()
    assert (within[:, 1] < np.array([5, 3, 9])[within[:, 0]]).all()
    assert np.array_equal(across, sample_pairs([5, 3, 9], 500, False, 0))
    with pytest.raises(ValueError, match="two held-out episodes"):
        sample_pairs([5], 10, False, 0)


def test_a_single_episode_has_no_interval_and_no_other_episode() -> None:
    found, _ = plannability(episodes(1), DISTANCE, pairs=50)
    assert set(found) == {"within", "all"} and found["all"]["interval"] is None


def test_data_without_states_are_refused() -> None:
    data = [dataclasses.replace(e, states=None) for e in episodes(3)]
    with pytest.raises(ValueError, match="no states"):
        plannability(data, DISTANCE)
    with pytest.raises(ValueError, match="not finite"):
        plannability(episodes(3), lambda a, b: np.full(len(a), np.inf), pairs=20)
