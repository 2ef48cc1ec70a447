"""Synthetic videos that a tiny model can learn in seconds, and a loop as small as that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.build import build_objective
from worldmodel.seeding import keyed_rng
from worldmodel.training.monitors import gradient_norms


def squares(indices: Iterable[int], frames: int = 4, fade: float = 1.0, change: bool = False) -> Tensor:
    """Clips ``(B, T, 3, 32, 32)`` uint8 of a bright square that moves over a plain background, in colours of its own.

    Args:
        indices: One clip each, always the same.
        fade: Everything darkens by this factor from frame to frame. Below 1, time has a direction.
        change: Half way, the colours are suddenly others: impossible.
    """
    clips = []
    for index in indices:
        rng = keyed_rng("squares", index)
        grounds, colours = rng.integers(0, 120, (2, 3, 1, 1)), rng.integers(130, 256, (2, 3, 1, 1))
        place, speed = rng.uniform(0, 24, 2), rng.uniform(-4, 4, 2)
        clip = np.empty((frames, 3, 32, 32), np.uint8)
        for t in range(frames):
            look = int(change and t >= frames // 2)
            row, column = np.clip(place, 0, 24).round().astype(int)
            clip[t] = grounds[look] * fade**t
            clip[t, :, row : row + 8, column : column + 8] = colours[look] * fade**t
            place = place + speed
        clips.append(clip)
    return torch.from_numpy(np.stack(clips))


def small_objective(config: ObjectiveConfig, frames: int = 4) -> Objective:
    """An objective of an encoder with 60 thousand parameters."""
    torch.manual_seed(0)
    size = VideoEncoderConfig(
        image_size=32, frames=frames, patch_size=8, tubelet=2, width=48, depth=2, heads=3
    )
    return build_objective(config, VideoEncoder(size), MaskedPredictorConfig(width=24, depth=1, heads=2))


def train(
    objective: Objective, masks: dict[str, MaskConfig], steps: int, lr: float = 1e-3, **kind: Any
) -> list[dict[str, Any]]:
    """Train on squares of some kind, 16 clips a step; returns rows as the loop logs them, ten of them with monitors."""
    encoder = objective.parts()["encoder"]
    assert isinstance(encoder, VideoEncoder)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    rows = []
    for step in range(steps):
        ids = range(16 * step, 16 * step + 16)
        clips = squares(ids, encoder.config.frames, **kind)
        batch = Batch(step, ids, (clips,), draw_masks(masks, encoder.grid, 0, ids))
        objective.train()
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 20 * (step + 1) / steps) * (1 - 0.99 * step / steps)
        row: dict[str, Any] = {"step": step, "loss": float(loss.detach())}
        monitored = step % (steps // 10) == 0 or step == steps - 1
        if monitored:
            row |= gradient_norms(objective.parts())
        row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(trained, 1.0))
        optimizer.step()
        objective.after_step((step + 1) / steps)
        if monitored:
            objective.eval()
            row |= objective.monitor(batch)
        rows.append(row)
    objective.eval()
    return rows
