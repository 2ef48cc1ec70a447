"""Masks of blocks with an exact number of tokens."""

from __future__ import annotations

import numpy as np

from worldmodel.masks.boxes import (
    box_corners,
    box_sizes,
    context_ranges,
    cover_probability,
    covered,
    ranges,
    size_distribution,
    taking_order,
)
from worldmodel.masks.config import Grid, MaskConfig

#: Sets of positions per sample, of which the one nearest to the exact count is taken. With fewer, more is to be put
#: right; with more, edges are seen more often and corners less than under V-JEPA's blocks.
_DRAWS = 4
#: I-JEPA: sets of target blocks that are tried until enough is left for the context.
_TRIES = 20


def union_noise(config: MaskConfig) -> int:
    """How many uniform numbers one sample of ``union_masks`` takes."""
    return 3 + _DRAWS * config.blocks * 3 + 3


def union_masks(config: MaskConfig, grid: Grid, count: int, noise: np.ndarray) -> np.ndarray:
    """Unions of V-JEPA's blocks, each of exactly ``count`` cells.

    A sample draws one size for all of its blocks, then four sets of positions, and takes the set whose union is
    nearest to ``count``; at V-JEPA's settings it is then 2 to 3% of the frame away. That is put right at the last block
    that matters: blocks are laid in order, the one that exceeds ``count`` is cut to a part of itself and later ones are
    dropped; if all together fall short, the last one grows (``taking_order``). Nothing is cut in raster order.

    V-JEPA draws the size once per batch, because it cuts every mask to the batch's smallest. Here counts are exact, so
    that the size can be the sample's own: the same distribution over many batches, and no dependence on the batch.

    Args:
        config: Of kind "blocks".
        grid: The token grid; for tubes, one step of it.
        count: Cells to hide, between 1 and the grid's cells.
        noise: ``(B, union_noise(config))`` uniform numbers.

    Returns:
        ``(B, cells)`` bool.
    """
    samples = len(noise)
    size = box_sizes(ranges(config), grid, noise[:, :3])
    uniform = noise[:, 3:-3].reshape(samples, _DRAWS, config.blocks, 3)
    corners = box_corners(size[:, None, None], grid, uniform)
    hidden = np.zeros((samples, _DRAWS, *grid), dtype=bool)
    reached = np.empty((samples, _DRAWS, config.blocks), dtype=np.int64)
    every = np.repeat(size, _DRAWS, axis=0)
    for block in range(config.blocks):
        hidden |= covered(every, corners[:, :, block].reshape(-1, 3), grid).reshape(hidden.shape)
        reached[:, :, block] = hidden.sum(axis=(2, 3, 4))
    sample = np.arange(samples)
    best = np.abs(reached[:, :, -1] - count).argmin(axis=1)
    corners, reached = corners[sample, best], reached[sample, best]

    # The last block that matters, and what is hidden before it.
    last = np.minimum((reached < count).sum(axis=1), config.blocks - 1)
    before = np.zeros((samples, *grid), dtype=bool)
    for block in range(config.blocks - 1):
        chosen = np.flatnonzero(block < last)
        before[chosen] |= covered(size[chosen], corners[chosen, block], grid)
    order = taking_order(size, corners[sample, last], grid, noise[:, -3:])
    order[before] = -1
    return _take(order.reshape(samples, -1), count)


def separate_counts(config: MaskConfig, grid: Grid) -> tuple[int, int]:
    """I-JEPA: places of the context, and of each target block."""
    sizes, weights = size_distribution(ranges(config), grid)
    block = round(round(float(weights @ sizes.prod(axis=1)), 6))
    inside = cover_probability(context_ranges(config), grid, 1)
    free = inside * (1 - cover_probability(ranges(config), grid, config.blocks))
    return min(max(1, round(round(float(free.sum()), 6))), grid.rows * grid.columns - block), block


def separate_noise(config: MaskConfig) -> int:
    """How many uniform numbers one sample of ``separate_masks`` takes."""
    return 3 + _TRIES * config.blocks * 6 + 9


def separate_masks(config: MaskConfig, grid: Grid, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """I-JEPA's masks: blocks that are predicted apart, and a large block without them as context.

    Every target block has the same number of places, by the rule of ``taking_order``, and so has the context. The
    blocks are drawn anew, at most 20 times, while they leave too few places for the context; then they are laid one
    upon another until they leave enough. (I-JEPA lets the context see a target block instead.)

    Args:
        config: Of kind "ijepa".
        grid: One step of the token grid.
        noise: ``(B, separate_noise(config))`` uniform numbers.

    Returns:
        Context ``(B, places)`` and targets ``(B, blocks, places)``, bool.
    """
    samples, places = len(noise), grid.rows * grid.columns
    seen, block = separate_counts(config, grid)
    size = box_sizes(ranges(config), grid, noise[:, :3])
    uniform = noise[:, 3:-9].reshape(samples, _TRIES, config.blocks, 6)
    targets = np.zeros((samples, config.blocks, places), dtype=bool)
    left = np.arange(samples)
    for attempt in range(_TRIES):
        each = np.repeat(size[left], config.blocks, axis=0)
        draw = uniform[left, attempt].reshape(-1, 6)
        order = taking_order(each, box_corners(each, grid, draw[:, :3]), grid, draw[:, 3:])
        targets[left] = _take(order.reshape(len(order), -1), block).reshape(len(left), config.blocks, -1)
        left = left[places - targets[left].any(axis=1).sum(axis=1) < seen]
        if not len(left):
            break
    for last in range(config.blocks - 1, 0, -1):
        targets[left, last] = targets[left, 0]
        left = left[places - targets[left].any(axis=1).sum(axis=1) < seen]

    size = box_sizes(context_ranges(config), grid, noise[:, -9:-6])
    order = taking_order(size, box_corners(size, grid, noise[:, -6:-3]), grid, noise[:, -3:])
    order = order.reshape(samples, -1)
    order[targets.any(axis=1)] = np.iinfo(order.dtype).max
    return _take(order, seen), targets


def _take(order: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` smallest of each row of ``order (B, cells)``: bool of the same shape."""
    taken = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(taken, np.argpartition(order, count - 1, axis=1)[:, :count], True, axis=1)
    return taken
