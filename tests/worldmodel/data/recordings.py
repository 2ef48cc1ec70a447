"""Small recordings, made by code: a square that moves as the actions say, with everything that an episode can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter

META: dict[str, Any] = {
    "env_id": "test/Arm-v0",
    "env_args": {"speed": 2},
    "fps": 20 / 3,
    "frame_shape": [3, 32, 48],
    "action_low": [-1.0, -2.0, 0.0],
    "action_high": [1.0, 2.0, 1.0],
    "action_names": ["x", "y", "grip"],
    "action_units": ["m/s", "m/s", ""],
    "proprio_names": ["p", "q"],
    "proprio_units": ["rad", "rad"],
    "actions_per_step": 2,
    "seed": 0,
}


def make_recording(index: int, steps: int = 5, crop: int = 48) -> dict[str, np.ndarray]:
    """An episode with ``K = 2``, ``A = 3``, and 32 x 48 pixels, or fewer."""
    rng = np.random.default_rng(index)
    frames = np.full((steps + 1, 3, 32, 48), 40, np.uint8)
    for t, frame in enumerate(frames):
        frame[:, 8:20, (t * 3 + index) % 36 : (t * 3 + index) % 36 + 12] = (220, 120, 60)[index % 3]
    return {
        "frames": np.ascontiguousarray(frames[..., :crop, :crop]),
        "actions": rng.uniform([-1, -2, 0], [1, 2, 1], (steps, 2, 3)).astype(np.float32),
        "proprio": rng.normal(size=(steps + 1, 2)).astype(np.float32),
        "states": rng.normal(size=(steps + 1, 4)),
        "timestamps": np.cumsum(rng.uniform(0.1, 0.2, steps + 1)),
    }


def make_store(
    path: Path, episodes: int = 4, codec: str = "raw", crop: int = 48, **changes: Any
) -> EpisodeStore:
    """A dataset of episodes of different lengths."""
    writer = EpisodeWriter(path, {**META, **changes}, codecs={"frames": codec})
    for index in range(episodes):
        if index not in writer.indices:
            writer.write(index, make_recording(index, 3 + 2 * index, crop))
    return EpisodeStore(path)
