"""States of imagined latents are those of the nearest known ones, and errors are measured in the world's units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldmodel.evaluation.state_error import NearestState, imagined_state_error
from worldmodel.evaluation.trajectories import Imagination, Trajectory


def episode(velocity: float, start: float = 0.0, steps: int = 8) -> Trajectory:
    """A point that coasts; its latent is its place, and actions do nothing."""
    places = start + velocity * np.arange(steps + 1)
    latents = torch.tensor(places, dtype=torch.float32)[:, None, None]
    states = np.stack([places, np.full(steps + 1, velocity)], axis=1)
    return Trajectory(0, np.zeros((1, 3, 8, 8), np.uint8), torch.zeros(steps, 1, 1), latents, states)


def coast(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """Goes on as from the last step but one to the last; from a single latent, it stays."""
    speed = context[:, -1] - context[:, max(-2, -context.shape[1])]
    steps = torch.arange(1, plans.shape[2] + 1.0)
    ahead = context[:, -1][:, None] + steps[:, None, None] * speed[:, None]
    return ahead[:, None].expand(-1, plans.shape[1], -1, -1, -1)


def places(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(a[..., 0] - b[..., 0]))


def encode(frames: Tensor, proprio: Tensor | None) -> Tensor:
    raise AssertionError("the episodes have their latents")


def test_a_model_of_one_latent_misses_the_velocity_and_one_of_two_does_not() -> None:
    known = NearestState([episode(0.5, start, 40) for start in (-10.0, 0.0)])
    shown = [episode(0.5, start) for start in (0.0, 2.0, 3.0)]
    errors = {
        seen: imagined_state_error(Imagination(encode, coast, seen), known, shown, places, 2, 4)
        for seen in (1, 2)
    }
    assert errors[1]["imagined"] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert errors[2]["imagined"] == pytest.approx([0.0] * 4)
    assert errors[1]["true_latents"] == errors[2]["true_latents"] == pytest.approx([0.0] * 4)
    from_rest = imagined_state_error(Imagination(encode, coast, 2), known, shown, places, 0, 4)
    assert from_rest["imagined"] == errors[1]["imagined"], "an episode's first step shows one latent only"


def test_the_state_is_that_of_the_nearest_latent() -> None:
    read = NearestState([episode(1.0)])
    found = read(torch.tensor([[0.2, 5.4], [7.9, 100.0]])[..., None, None])
    assert found.shape == (2, 2, 2) and found[..., 0].tolist() == [[0.0, 5.0], [8.0, 8.0]]


def test_what_cannot_be_measured_is_said() -> None:
    blind = Trajectory(0, np.zeros((1, 3, 8, 8), np.uint8), torch.zeros(8, 1, 1), torch.zeros(9, 1, 1))
    with pytest.raises(ValueError, match="no states"):
        NearestState([blind])
    read = NearestState([episode(1.0)])
    with pytest.raises(ValueError, match="shorter than 10 steps"):
        imagined_state_error(Imagination(encode, coast, 1), read, [episode(1.0)], places, 4, 6)
