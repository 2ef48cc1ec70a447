"""What a world model's training watches besides its batches: held-out moments, and how far apart they truly are."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from worldmodel.data.episodes import EpisodeStore
from worldmodel.objectives.moments import Moments, read_moments

logger = logging.getLogger(__name__)


def held_out_moments(
    store: EpisodeStore, cache: EpisodeStore | None, held_out: range, frames: int, stride: int, proprio: bool
) -> Moments | None:
    """Moments of held-out episodes, with true distances where the data name their environment and hold states.

    Args:
        store: The episodes.
        cache: Their cached tokens, if the encoder is frozen: then no frame is read.
        held_out: Positions of the episodes.
        frames: That the encoding of a step sees.
        stride: Steps of the data between them.
        proprio: Whether the model sees proprioception.

    Returns:
        None, where the episodes are too short.
    """
    if cache is None:
        found = read_moments(store, held_out, "frames", frames, stride, proprio)
    else:
        found = read_moments(cache, held_out, "tokens", proprio=proprio)
    if found is None or any("states" not in store[episode] for episode in found.episodes.tolist()):
        return found
    places = zip(found.episodes.tolist(), found.steps.tolist(), strict=True)
    states = np.stack([store[episode]["states"][step : step + 1][0] for episode, step in places])
    return replace(found, true=true_distances(store, states))


def true_distances(store: EpisodeStore, states: np.ndarray) -> np.ndarray | None:
    """Distances ``(L, L)`` between states ``(L, S)`` in the world that the data name; None where it is none of ours."""
    env_id = str(store.meta.get("env_id") or "")
    if not env_id.startswith("worldmodel/") or store.meta.get("env_args"):
        return None
    try:
        import envs  # noqa: F401 (registers the worlds)
        from envs.world import make_world

        world = make_world(env_id)
        count = len(states)
        found = np.asarray(world.distances(states.repeat(count, axis=0), np.tile(states, (count, 1))))
        world.close()
    # An environment that is not installed, or not as it was: what is only watched must not stop a training.
    except Exception as error:
        logger.debug("true distances in %s are not known: %s", env_id, error)
        return None
    return found.reshape(count, count) if np.isfinite(found).all() else None
