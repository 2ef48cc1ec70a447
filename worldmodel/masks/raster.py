"""Masks as the V-JEPA repositories collate them, for comparison only.

The size of the blocks is drawn once per batch, and every mask is then cut to the batch's smallest by keeping the first
ids in raster order. Those are the early frames: late ones are hardly ever seen or predicted, the more so the larger
the batch, and what is cut is neither context nor target. docs/masks.md shows by how much.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.masks.boxes import box_sizes, ranges
from worldmodel.masks.config import Grid, Mask, MaskConfig
from worldmodel.seeding import keyed_rng

_TRIES = 1000


def raster_mask(config: MaskConfig, grid: Grid, keys: list[tuple[int, ...]]) -> Mask:
    """One mask per key, all cut to the smallest; the common size of the blocks is keyed by the first.

    Raises:
        ValueError: A sample's blocks left nothing to see in 1000 tries.
    """
    size = box_sizes(ranges(config), grid, keyed_rng("mask size", *keys[0]).random(3))
    hidden = [_union(config, grid, size, keyed_rng("mask", *key)) for key in keys]
    return Mask(_cut([~flags for flags in hidden]), _cut(hidden))


def _union(config: MaskConfig, grid: Grid, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blocks put uniformly within the grid, in time too, again until something is left to see: ``(cells,)`` bool."""
    kept = max(1, int(grid.steps * config.max_temporal_keep))
    for _ in range(_TRIES):
        hidden = np.zeros(grid, dtype=bool)
        hidden[kept:] = True
        for step, row, column in rng.integers(np.array(grid) - size + 1, size=(config.blocks, 3)):
            hidden[step : step + size[0], row : row + size[1], column : column + size[2]] = True
        if not hidden.all():
            return hidden.ravel()
    raise ValueError(
        f"{config.blocks} blocks of {size[0]} x {size[1]} x {size[2]} tokens left nothing of a grid of "
        f"{grid.steps} x {grid.rows} x {grid.columns} to see in {_TRIES} tries; use fewer or smaller blocks"
    )


def _cut(flags: list[np.ndarray]) -> Tensor:
    ids = [np.flatnonzero(row) for row in flags]
    smallest = min(map(len, ids))
    return torch.from_numpy(np.stack([row[:smallest] for row in ids]))
