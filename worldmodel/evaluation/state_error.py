"""What an imagined latent says of the state: that of the nearest latent whose state is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.trajectories import Imagination, Trajectory, flat

#: Queries of a nearest-neighbour search at once.
_CHUNK = 512
#: Distances between states ``(..., S)`` and ``(..., S)``, in world units.
Distances = Callable[[np.ndarray, np.ndarray], np.ndarray]


class NearestState:
    """Reads states from latents by the nearest neighbour among episodes with states.

    Unlike a trained probe it needs no settings, and answers only with states that are possible. Its own error, on true
    latents, is the distance between neighbouring states of the data.

    Args:
        episodes: With states; a latent for each step.

    Raises:
        ValueError: An episode has no states.
    """

    def __init__(self, episodes: Sequence[Trajectory]) -> None:
        states = [episode.states for episode in episodes]
        if not episodes or any(state is None for state in states):
            raise ValueError("the episodes have no states to compare with; collect writes them")
        self._latents = torch.cat([flat(episode.latents) for episode in episodes])
        self._states = np.concatenate([state for state in states if state is not None])

    def __call__(self, latents: Tensor) -> np.ndarray:
        """States ``(..., S)`` for latents ``(..., N, Z)``."""
        rows = flat(latents.flatten(0, -3))
        nearest = torch.cat([torch.cdist(part, self._latents).argmin(dim=1) for part in rows.split(_CHUNK)])
        return self._states[nearest.numpy()].reshape(*latents.shape[:-2], -1)


def imagined_state_error(
    model: Imagination,
    read: NearestState,
    episodes: Sequence[Trajectory],
    distances: Distances,
    begin: int,
    steps: int,
) -> dict[str, list[float]]:
    """Distance between imagined and true states, step by step, from step ``begin`` of each episode.

    Args:
        model: The world model; it sees as much of the time before ``begin`` as it can.
        read: See ``NearestState``.
        episodes: Held-out episodes with states.
        distances: Of states, in world units.
        begin: Step from which it is imagined.
        steps: How many steps, ``L``.

    Returns:
        ``imagined`` and ``true_latents``: medians over the episodes of the distance after 1 to ``L`` steps. The second
        reads the states from the true latents: what no prediction could better.

    Raises:
        ValueError: The episodes are shorter than that.
    """
    if min(episode.steps for episode in episodes) < begin + steps:
        raise ValueError(f"episodes are shorter than {begin + steps} steps; imagine fewer, or begin earlier")
    rows = slice(begin + 1, begin + steps + 1)
    plans = torch.stack([episode.actions[begin : begin + steps] for episode in episodes])
    imagined = model.from_moments(episodes, [(i, begin) for i in range(len(episodes))], plans)
    seen = torch.stack([episode.latents[rows] for episode in episodes])
    truth = np.stack([episode.states[rows] for episode in episodes if episode.states is not None])
    found = {"imagined": imagined, "true_latents": seen}
    return {
        name: np.median(distances(read(latents), truth), axis=0).tolist() for name, latents in found.items()
    }
