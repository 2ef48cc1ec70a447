"""Plannability while a model trains: read from held-out episodes only, without a trace in what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel.objectives.moving_points import draw, world_model
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.objectives.moments import EACH, EPISODES, Moments, read_moments


class Reader(nn.Module):
    """A model whose latent is a function of what is stored as the frames' tokens."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(sign))

    def latents(self, view: Tensor, proprio: Tensor | None = None) -> Tensor:
        return view if proprio is None else torch.cat([view, proprio[:, :, None]], dim=2)


def make_store(path: Path, lengths: list[int]) -> EpisodeStore:
    """Tokens ``(T+1, 1, 2)`` that are the episode's number and the frame's."""
    writer = EpisodeWriter(path, {"env_id": "fake"})
    for index, steps in enumerate(lengths):
        time = np.arange(steps + 1, dtype=np.float32)
        tokens = np.stack([np.full_like(time, 100 * index), time], axis=-1)[:, None]
        arrays = {"tokens": tokens, "actions": np.zeros((steps, 1, 1), np.float32), "proprio": -tokens[:, 0]}
        writer.write(index, arrays)
    return EpisodeStore(path)


def test_moments_are_spread_over_the_held_out_episodes_and_their_places_are_right(tmp_path: Path) -> None:
    store = make_store(tmp_path, [30] * 20)
    found = read_moments(store, range(5, 20), "tokens", frames=2, stride=3, proprio=True)
    assert found is not None and found.proprio is not None
    assert len(found.view) == EPISODES * EACH and found.view.shape[1:] == (2, 1, 2)
    assert (found.view[:, -1, 0, 0] == torch.from_numpy(100.0 * found.episodes)).all()
    assert (found.view[:, -1, 0, 1] == torch.from_numpy(found.steps)).all()
    assert (found.view[:, -1, 0, 1] - found.view[:, 0, 0, 1] == 3).all() and (
        found.proprio == -found.view[:, :, 0]
    ).all()
    assert found.episodes.min() == 5 and found.episodes.max() == 19
    assert found.steps.min() == 3 and found.steps.max() == 30


def test_short_episodes_are_left_out_and_too_short_ones_leave_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, [1, 4, 2])
    found = read_moments(store, range(3), "tokens", frames=3, stride=2)
    assert found is not None and set(found.episodes) == {1} and list(found.steps) == [4]
    assert found.figures(Reader()) == {}, "a single moment orders nothing"
    assert read_moments(store, range(2), "tokens", frames=3, stride=3) is None


def test_figures_are_rank_correlations_within_and_across_episodes(tmp_path: Path) -> None:
    moments = read_moments(make_store(tmp_path, [20] * 8), range(2, 8), "tokens")
    assert moments is not None
    assert moments.figures(Reader()) == {"plannability_steps": pytest.approx(1.0)}
    gap = np.abs(moments.steps[:, None] - moments.steps)
    far = 1000.0 * np.abs(moments.episodes[:, None] - moments.episodes)
    found = replace(moments, true=gap + far).figures(Reader())
    assert found["plannability_true"] == pytest.approx(1.0) and found["plannability_across"] > 0.99
    assert replace(moments, true=-(gap + far)).figures(Reader())["plannability_across"] < -0.99
    still = replace(moments, view=torch.ones_like(moments.view), true=gap)
    assert set(still.figures(Reader()).values()) == {0.0}, "a collapsed latent orders nothing"


def test_the_monitors_change_neither_weights_nor_random_state_nor_what_a_step_gives() -> None:
    batch = draw(0, steps=4)
    view = draw(1, size=12, steps=4).views[0]
    moments = Moments(
        view[:, :1], None, np.arange(12) // 6, np.arange(12), np.random.default_rng(0).random((12, 12))
    )
    losses: list[Any] = []
    for watched in (None, moments):
        objective = LatentDynamics(world_model(), LatentDynamicsConfig(), 0, watched)
        objective.eval()
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        random = torch.get_rng_state()
        figures = objective.monitor(batch)
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
        assert all(parameter.grad is None for parameter in objective.parameters())
        assert ("plannability_true" in figures) == (watched is not None)
        objective.train()
        losses.append(objective(batch)["loss"])
        losses[-1].backward()
        losses.append(objective.model.head.reduce.weight.grad.clone())  # type: ignore[union-attr]
    assert torch.equal(losses[0], losses[2]) and torch.equal(losses[1], losses[3])


def test_true_distances_come_from_the_world_that_the_data_name_and_nothing_else_fails() -> None:
    from experiments.monitoring import true_distances

    store: Any = SimpleNamespace(meta={"env_id": "worldmodel/TwoRoom-v0", "env_args": {}})
    from envs.world import make_world

    world = make_world("worldmodel/TwoRoom-v0")
    world.reset(seed=0)
    states = np.tile(world.get_state(), (4, 1))
    states[:, 1:3] = np.random.default_rng(0).uniform(-0.8, 0.8, (4, 2))
    found = true_distances(store, states)
    assert found is not None and found.shape == (4, 4) and np.allclose(np.diag(found), 0)
    assert found[1, 2] == pytest.approx(world.distance(states[1], states[2]))
    for env_id in ("", "own robot", "worldmodel/Nowhere-v0"):
        store.meta["env_id"] = env_id
        assert true_distances(store, states) is None
