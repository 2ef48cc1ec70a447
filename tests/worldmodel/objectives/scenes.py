"""Clips with an up and a down, a place for everything and a course in time; and training on them for seconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tests.worldmodel.objectives.systems import SIZE
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.objectives.base import Batch, Objective
from worldmodel.seeding import keyed_rng
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.rates import set_rates

#: Scenes that no training sees.
HELD_OUT = range(10**6, 10**6 + 128)


def scenes(ids: range) -> Tensor:
    """``(B, 4, 3, 32, 32)`` uint8: a lamp near the middle of the upper edge goes out, or on, bit by bit.

    What is bright is yellow, what is dark is blue.
    """
    y, x = np.mgrid[:32, :32]
    clips = []
    for index in ids:
        rng = keyed_rng("scene", index)
        row, column = rng.uniform((4, 13), (8, 19))
        light = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * rng.uniform(8, 11) ** 2))
        course = np.array([1.0, 0.8, 0.6, 0.4])
        light = light * (course if rng.integers(2) else course[::-1])[:, None, None]
        light = light + 0.02 * rng.standard_normal(light.shape)
        colours = np.stack([light, light, 0.6 - 0.5 * light], axis=1)
        clips.append((255 * colours.clip(0, 1)).round().astype(np.uint8))
    return torch.from_numpy(np.stack(clips))


def batch_of_scenes(ids: range, masks: Mapping[str, MaskConfig] | None = None, step: int = 0) -> Batch:
    """Scenes, and masks where an objective needs them."""
    return Batch(step, ids, (scenes(ids),), draw_masks(dict(masks), SIZE.grid, 0, ids) if masks else ())


def train_on_scenes(
    objective: Objective,
    steps: int,
    masks: Mapping[str, MaskConfig] | None = None,
    lr: float = 2e-3,
    size: int = 32,
) -> list[float]:
    """Train with the real loop's step; returns the losses."""
    loop = LoopConfig(steps=steps, batch_size=size, lr=lr, warmup=0.1, precision="fp32")
    optimizer, losses = make_optimizer(objective, loop), []
    for step in range(steps):
        objective.train()
        set_rates(optimizer, loop, step)
        batch = batch_of_scenes(range(size * step, size * (step + 1)), masks, step)
        losses.append(train_step(objective, optimizer, batch, loop)["loss"])
    objective.eval()
    return losses
