"""Episodes as models see them: batches of unlike contexts, joined actions, wide latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.worldmodel.evaluation.moving_point import EXACT, episodes
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.evaluation.trajectories import WIDEST, Imagination, flat, read_trajectories


def encode(frames: torch.Tensor, proprio: torch.Tensor | None) -> torch.Tensor:
    mean = frames.float().mean(dim=(2, 3, 4))[..., None, None]
    return mean if proprio is None else torch.cat([mean, proprio[:, :, :1, None]], dim=2)


def test_contexts_of_different_lengths_keep_their_order() -> None:
    def rollout(context: torch.Tensor, past: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        assert past.shape[1] == context.shape[1] - 1
        total = context.sum(dim=1)[:, None, None] + plans.sum(dim=(2, 3, 4))[:, :, None, None, None]
        return total.expand(-1, -1, plans.shape[2], -1, -1)

    model = Imagination(encode, rollout, context=3, chunk=2)
    latents = torch.arange(10.0).reshape(10, 1, 1)
    found = model.next_latents(latents, torch.zeros(9, 1, 2))
    expected = [float(latents[max(0, t - 2) : t + 1].sum()) for t in range(9)]
    assert found.flatten().tolist() == expected


def test_next_latents_are_the_rollouts_first_step() -> None:
    episode = episodes(1)[0]
    found = EXACT.next_latents(episode.latents, episode.actions)
    one = EXACT.imagine([episode.latents[4:5]], [episode.actions[:0]], episode.actions[None, 4:5])
    assert torch.equal(found[4], one[0, 0])


def test_a_model_of_joined_actions_sees_every_second_frame(store: EpisodeStore) -> None:
    model = Imagination(encode, EXACT.rollout)
    single, joined = (read_trajectories(model, store, [3], k)[0] for k in (1, 2))
    assert joined.actions.shape == (6, 2, 2)
    assert torch.equal(joined.actions.reshape(12, 1, 2), single.actions)
    assert np.array_equal(joined.frames, single.frames[::2])
    assert torch.equal(joined.latents, single.latents[::2])
    assert read_trajectories(model, store, [3], 5)[0].actions.shape == (2, 5, 2)  # two steps are left over
    assert len(read_trajectories(model, store, [3], 1, keep_frames=False)[0].frames) == 1


def test_data_that_do_not_fit_are_named(
    tmp_path: Path, make_episode: Callable[..., dict[str, np.ndarray]], meta: dict[str, Any]
) -> None:
    episode = make_episode(0)
    episode["actions"] = episode["actions"].reshape(12, 1, 2).repeat(2, axis=1)
    EpisodeWriter(tmp_path / "pairs", meta).write(0, episode)
    pairs = EpisodeStore(tmp_path / "pairs")
    model = Imagination(encode, EXACT.rollout)
    with pytest.raises(ValueError, match="2 actions per step, which do not divide the model's 3"):
        read_trajectories(model, pairs, [0], 3)
    with pytest.raises(ValueError, match="episode 0 of .* has no proprio"):
        read_trajectories(model, pairs, [0], 2, proprio=True)


def test_very_wide_latents_keep_their_distances() -> None:
    latents = torch.randn(12, 20, 500, generator=torch.Generator().manual_seed(0))
    assert latents[0].numel() > WIDEST
    rows = flat(latents)
    assert rows.shape == (12, WIDEST)
    plain, projected = (torch.pdist(r) / r.shape[1] ** 0.5 for r in (latents.flatten(1), rows))
    assert torch.allclose(projected, plain, rtol=0.1)
    assert torch.equal(flat(latents[:, :2, :2]), latents[:, :2, :2].flatten(1))
