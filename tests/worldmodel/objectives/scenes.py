"""Clips with an up and a down, a place for everything and a course in time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.seeding import keyed_rng

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
