"""Masks for masked latent prediction: which tokens of a clip are context, which are to be predicted.

Every mask here is a *tube*: the same places are hidden in every tubelet step, so that the answer cannot be copied from
a neighbouring frame (Bardes et al. 2024, 2404.08471). The number of hidden places is exact and depends on grid and
configuration only. Hence shapes are static, no frame is favoured, and a sample's mask does not depend on the batch
that it is drawn in. (Upstream cuts every sample to the batch's smallest in raster order, which biases to early frames.)
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel.seeding import keyed_rng


class Grid(NamedTuple):
    """Token grid of a clip: tubelet steps, rows, columns. Token id = ``(step * rows + row) * columns + column``."""

    steps: int
    rows: int
    columns: int


class Mask(NamedTuple):
    """Token ids ``context (B, K)`` and ``target (B, M)``, sorted, int64; together all tokens of the grid, once."""

    context: Tensor
    target: Tensor


@dataclass
class TubeMaskConfig:
    """How to draw tube masks."""

    #: "random" hides single places, "blocks" hides rectangles.
    kind: str = "random"
    #: Share of the places that is hidden; rounded to a whole number of places.
    ratio: float = 0.5
    #: blocks: area of one rectangle as a share of the frame.
    block_scale: float = 0.15
    #: blocks: smallest and largest ratio of height to width.
    aspect_min: float = 0.75
    #: See aspect_min.
    aspect_max: float = 1.5

    def __post_init__(self) -> None:
        if self.kind not in ("random", "blocks"):
            raise ValueError(f"mask.kind={self.kind!r} is unknown; choose 'random' or 'blocks'")
        if not 0 < self.ratio < 1:
            raise ValueError(
                f"mask.ratio={self.ratio} leaves nothing to see or to predict; choose 0 < ratio < 1"
            )
        if not (0 < self.block_scale <= 1 and 0 < self.aspect_min <= self.aspect_max):
            raise ValueError("mask.block_scale must be in (0, 1] and 0 < mask.aspect_min <= mask.aspect_max")


def hidden_places(config: TubeMaskConfig, grid: Grid) -> int:
    """How many of a frame's places are hidden.

    Raises:
        ValueError: The grid is so small that nothing would be hidden or seen.
    """
    places = grid.rows * grid.columns
    hidden = round(config.ratio * places)
    if not 0 < hidden < places:
        raise ValueError(
            f"mask.ratio={config.ratio} hides {hidden} of the {places} places of a {grid.rows} x {grid.columns} grid; "
            "use another ratio, smaller patches or larger frames"
        )
    return hidden


def tube_masks(config: TubeMaskConfig, grid: Grid, seed: int, indices: range) -> Mask:
    """One tube mask per sample, keyed by ``(seed, global sample index)``.

    Returns ``Mask`` of ``(B, K)`` and ``(B, M)`` with ``B = len(indices)``.
    """
    count = hidden_places(config, grid)
    hidden = np.stack([_draw(config, grid, count, keyed_rng("mask", seed, i)) for i in indices])
    tube = np.broadcast_to(hidden[:, None], (len(indices), grid.steps, hidden.shape[1])).reshape(
        len(indices), -1
    )
    # A stable sort on the flag lists seen tokens first, then hidden ones, each in order of id.
    order = torch.from_numpy(np.argsort(tube, axis=1, kind="stable"))
    seen = tube.shape[1] - count * grid.steps
    return Mask(order[:, :seen], order[:, seen:])


def _draw(config: TubeMaskConfig, grid: Grid, count: int, rng: np.random.Generator) -> np.ndarray:
    """One frame's hidden places ``(rows * columns,)`` bool, exactly ``count`` of them."""
    if config.kind == "random":
        hidden = np.zeros(grid.rows * grid.columns, dtype=bool)
        hidden[rng.permutation(hidden.size)[:count]] = True
        return hidden
    return _draw_blocks(config, grid, count, rng)


def _draw_blocks(config: TubeMaskConfig, grid: Grid, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lays rectangles until ``count`` places are hidden; the last one is laid row by row and cut where it is enough.

    Ends always: a rectangle covers at least one place, and after 100 of them single places fill what is missing.
    """
    hidden = np.zeros((grid.rows, grid.columns), dtype=bool)
    for _ in range(100):
        area = config.block_scale * hidden.size
        aspect = rng.uniform(config.aspect_min, config.aspect_max)
        height = int(np.clip(round(np.sqrt(area * aspect)), 1, grid.rows))
        width = int(np.clip(round(np.sqrt(area / aspect)), 1, grid.columns))
        top, left = rng.integers(grid.rows - height + 1), rng.integers(grid.columns - width + 1)
        block = np.zeros_like(hidden)
        block[top : top + height, left : left + width] = True
        new = np.flatnonzero(block & ~hidden)
        hidden.flat[new[: count - int(hidden.sum())]] = True
        if hidden.sum() == count:
            return hidden.ravel()
    free = rng.permutation(np.flatnonzero(~hidden))
    hidden.flat[free[: count - int(hidden.sum())]] = True
    return hidden.ravel()
