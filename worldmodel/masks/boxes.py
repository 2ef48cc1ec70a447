"""Boxes of tokens: how large they are, what they cover on average, and in which order their cells are taken.

A box is ``(span, height, width)`` in tokens. Its rows and columns lie within the frame, as in V-JEPA. Its time span may
run over the clip's end and go on at the beginning, so that every step is covered equally often; boxes that must lie
within the clip, as upstream's do, cover the middle more often than the ends.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np

from worldmodel.masks.config import Grid, MaskConfig

Range = tuple[float, float]
Ranges = tuple[Range, Range, Range]


def ranges(config: MaskConfig) -> Ranges:
    """Smallest and largest time span, area and aspect ratio of a block."""
    return (
        (config.temporal_min, config.temporal_max),
        (config.scale_min, config.scale_max),
        (config.aspect_min, config.aspect_max),
    )


def context_ranges(config: MaskConfig) -> Ranges:
    """The same of I-JEPA's context block: square, all of the time."""
    return (1.0, 1.0), (config.context_min, config.context_max), (1.0, 1.0)


def box_sizes(limits: Ranges, grid: Grid, uniform: np.ndarray) -> np.ndarray:
    """``(..., 3)`` uniform numbers to box sizes ``(..., 3)`` int64, by V-JEPA's rule.

    The area is cut, the sides are rounded, and each side is cut to the grid; here it is also at least one token.
    """
    low, high = np.array(limits).T
    temporal, scale, aspect = np.moveaxis(low + uniform * (high - low), -1, 0)
    span = np.floor(grid.steps * temporal)
    area = np.floor(grid.rows * grid.columns * scale)
    height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    return np.clip(np.stack([span, height, width], axis=-1), 1, grid).astype(np.int64)


def box_corners(sizes: np.ndarray, grid: Grid, uniform: np.ndarray) -> np.ndarray:
    """First step, top row and left column ``(..., 3)``, uniform over all places where the box fits."""
    room = np.array(grid) - sizes + 1
    if grid.steps > 1:
        room = np.concatenate([np.full_like(room[..., :1], grid.steps), room[..., 1:]], axis=-1)
    return np.minimum((uniform * room).astype(np.int64), room - 1)


@lru_cache(maxsize=64)
def size_distribution(limits: Ranges, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The sizes that are drawn ``(S, 3)`` and how likely each is ``(S,)``, by the midpoint rule over the ranges."""
    counts = [1 if low == high else points for (low, high), points in zip(limits, (32, 32, 256), strict=True)]
    axes = np.meshgrid(*((np.arange(count) + 0.5) / count for count in counts), indexing="ij")
    sizes = box_sizes(limits, grid, np.stack(axes, axis=-1).reshape(-1, 3))
    most = tuple(side + 1 for side in grid)
    unique, times = np.unique(np.ravel_multi_index(tuple(sizes.T), most), return_counts=True)
    return np.stack(np.unravel_index(unique, most), axis=-1), times / times.sum()


@lru_cache(maxsize=64)
def cover_probability(limits: Ranges, grid: Grid, blocks: int) -> np.ndarray:
    """How likely each place is covered by at least one of ``blocks`` boxes of a common size: ``(rows, columns)``.

    Exact over the positions of the boxes; the same at each step.
    """
    sizes, weights = size_distribution(limits, grid)
    return np.einsum("s,src->rc", weights, 1 - _uncovered(sizes, grid, blocks))


@lru_cache(maxsize=64)
def union_share(limits: Ranges, grid: Grid, blocks: int) -> float:
    """The share of the grid that blocks cover on average where they do not cover everything.

    V-JEPA draws positions again until something is left to see. That matters for few large blocks: those as high as the
    frame may together hide all of it. (Four or more blocks may do so without any as high or wide as the frame. That is
    rare at usual sizes, and left out here.)
    """
    sizes, weights = size_distribution(limits, grid)
    proper = (sizes < np.array(grid)).any(axis=1)
    sizes, weights = sizes[proper], weights[proper] / weights[proper].sum()
    seen = _uncovered(sizes, grid, blocks).mean(axis=(1, 2))
    whole = np.zeros(len(sizes))
    for i, (span, height, width) in enumerate(sizes):
        if span == grid.steps and height == grid.rows:
            whole[i] = _all_covered(int(width), grid.columns, blocks)
        elif span == grid.steps and width == grid.columns:
            whole[i] = _all_covered(int(height), grid.rows, blocks)
    return 1 - float(weights @ (seen / (1 - whole)))


def _uncovered(sizes: np.ndarray, grid: Grid, blocks: int) -> np.ndarray:
    """How likely each place is left by boxes of each size: ``(S, rows, columns)``."""
    span, height, width = sizes.T
    one = span[:, None, None] / grid.steps * _inside(height, grid.rows)[:, :, None]
    return (1 - one * _inside(width, grid.columns)[:, None]) ** blocks


def _all_covered(size: int, length: int, count: int) -> float:
    """How likely ``count`` intervals of a size, put uniformly within ``length``, cover all of it."""
    room = length - size + 1
    # ways[k, j] * k!: sequences of k intervals that cover all up to the end of one that starts at j, the last of them.
    ways = np.zeros((count + 1, room))
    for start in range(room):
        for used in range(1, count + 1):
            for here in range(1, used + 1):
                if start:
                    before = float(ways[used - here, max(0, start - size) : start].sum())
                else:
                    before = float(used == here)
                ways[used, start] += before / factorial(here)
    return float(ways[count, -1]) * factorial(count) / room**count


def _inside(sizes: np.ndarray, length: int) -> np.ndarray:
    """How likely a place ``i`` of ``length`` lies in an interval of a size that is put uniformly: ``(S, length)``."""
    size, i = sizes[:, None], np.arange(length)
    starts = np.minimum(i, length - size) - np.maximum(0, i - size + 1) + 1
    return starts / (length - size + 1)


def covered(sizes: np.ndarray, corners: np.ndarray, grid: Grid) -> np.ndarray:
    """The cells of boxes ``(B, 3)``: bool ``(B, steps, rows, columns)``."""
    step, row, column = _offsets(corners, grid)
    span, height, width = (sizes[:, i, None] for i in range(3))
    rows = (row >= 0) & (row < height)
    columns = (column >= 0) & (column < width)
    return (step < span)[:, :, None, None] & rows[:, None, :, None] & columns[:, None, None, :]


def taking_order(sizes: np.ndarray, corners: np.ndarray, grid: Grid, uniform: np.ndarray) -> np.ndarray:
    """The order in which cells belong to a box that is to have an exact number of them.

    The box's own cells come first, line by line from a random side (rows from above or below, or columns from the left
    or the right), so that taking fewer leaves a box with its far side cut. Then come the cells around it, ring by ring,
    so that taking more grows it. All eight orientations are equally likely, and cells of one place stay together
    through the box's time span.

    Args:
        sizes, corners: ``(B, 3)``.
        grid: The token grid.
        uniform: ``(B, 3)``, for the orientation.

    Returns:
        ``(B, steps, rows, columns)`` int64, each number once per sample; the smallest is taken first.
    """
    step, row, column = _offsets(corners, grid)
    span, height, width = (sizes[:, i, None] for i in range(3))
    away_step = np.where(step < span, 0, np.minimum(step - span + 1, grid.steps - step))
    away_row = np.maximum(np.maximum(-row, row - height + 1), 0)
    away_column = np.maximum(np.maximum(-column, column - width + 1), 0)
    ring = np.maximum(
        np.maximum(away_row[:, :, None], away_column[:, None, :])[:, None], away_step[:, :, None, None]
    )
    by_columns, from_below, from_right = (uniform[:, i, None] < 0.5 for i in range(3))
    r, c = np.arange(grid.rows), np.arange(grid.columns)
    r = np.where(from_below, r[::-1], r)[:, :, None]
    c = np.where(from_right, c[::-1], c)[:, None, :]
    line = np.where(by_columns[:, None], c * grid.rows + r, r * grid.columns + c)
    places = grid.rows * grid.columns
    return (ring * places + line[:, None]) * grid.steps + step[:, :, None, None]


def _offsets(corners: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step (modulo the clip), row and column of every token as seen from the boxes' corners: ``(B, length)`` each."""
    step = (np.arange(grid.steps) - corners[:, 0, None]) % grid.steps
    return step, np.arange(grid.rows) - corners[:, 1, None], np.arange(grid.columns) - corners[:, 2, None]
