"""Small data and models, made by code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

META = {"env_id": "fake", "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


def make_episode(index: int, steps: int = 12, size: int = 32) -> dict[str, np.ndarray]:
    """A bright square that moves as its actions say."""
    rng = np.random.default_rng(index)
    actions = rng.uniform(-1, 1, (steps, 1, 2)).astype(np.float32)
    states = np.cumsum(np.concatenate([rng.uniform(8, 20, (1, 2)), 2.0 * actions[:, 0]]), axis=0).clip(
        0, size - 6
    )
    frames = np.full((steps + 1, 3, size, size), 40, dtype=np.uint8)
    for frame, (x, y) in zip(frames, states.astype(int), strict=True):
        frame[:, y : y + 6, x : x + 6] = 220
    return {"frames": frames, "actions": actions, "states": states}


@pytest.fixture(name="make_episode")
def _make_episode() -> Callable[..., dict[str, np.ndarray]]:
    return make_episode


@pytest.fixture
def meta() -> dict[str, Any]:
    return dict(META)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Twelve episodes of 12 steps of 32 x 32 pixels."""
    writer = EpisodeWriter(tmp_path / "data", META)
    for index in range(12):
        writer.write(index, make_episode(index))
    return EpisodeStore(tmp_path / "data")


@pytest.fixture
def tiny_encoder() -> VideoEncoderConfig:
    return VideoEncoderConfig(image_size=32, frames=4, patch_size=8, tubelet=2, width=24, depth=2, heads=2)


@pytest.fixture
def tiny_world_model(tiny_encoder: VideoEncoderConfig) -> WorldModel:
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.5, 0.5])
    head, dynamics = TokenHeadConfig(per_token=4, hidden=16, width=8), MLPDynamicsConfig(hidden=16)
    return WorldModel(WorldModelConfig(tiny_encoder, head, dynamics, spec, "fake")).eval()
