"""What masks do on average: how often each place at each step is seen, predicted, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from worldmodel.masks.config import Grid, MaskConfig
from worldmodel.masks.draw import draw_masks


@dataclass(frozen=True)
class Coverage:
    """Shares of the samples in which a token is context, or target of at least one group.

    Attributes:
        context, target: ``(steps, rows, columns)``, in [0, 1].
        context_tokens, target_tokens: Mean numbers per sample; a target is counted once for each group that has it.
    """

    context: np.ndarray
    target: np.ndarray
    context_tokens: float
    target_tokens: float

    @property
    def unused(self) -> float:
        """Share of the tokens that are neither."""
        return 1 - float(self.context.mean() + self.target.mean())

    def corner_and_centre(self) -> tuple[float, float]:
        """How often the four corners are context, and how often the place or places in the middle."""
        seen = self.context.mean(axis=0)
        rows, columns = seen.shape
        middle = seen[(rows - 1) // 2 : rows // 2 + 1, (columns - 1) // 2 : columns // 2 + 1]
        return float(seen[:: max(1, rows - 1), :: max(1, columns - 1)].mean()), float(middle.mean())


def coverage(config: MaskConfig, grid: Grid, seed: int, samples: int, batch_size: int = 24) -> Coverage:
    """Measure a mask over ``samples`` samples.

    Args:
        config: How the mask is drawn.
        grid: The token grid.
        seed: Of the masks.
        samples: How many to draw, rounded up to whole batches.
        batch_size: Matters with ``collate="raster"`` only.
    """
    seen = np.zeros(grid.steps * grid.rows * grid.columns)
    hidden, counts, batches = np.zeros_like(seen), [], -(-samples // batch_size)
    for batch in range(batches):
        ids = range(batch * batch_size, (batch + 1) * batch_size)
        (mask,) = draw_masks({"mask": config}, grid, seed, ids)
        seen += flags(mask.context, grid).sum(axis=0)
        hidden += flags(mask.target, grid).sum(axis=0)
        counts.append((mask.context.shape[1], mask.target.shape[1]))
    context_tokens, target_tokens = np.mean(counts, axis=0)
    shares = [total.reshape(grid) / (batches * batch_size) for total in (seen, hidden)]
    return Coverage(shares[0], shares[1], float(context_tokens), float(target_tokens))


def flags(ids: Tensor, grid: Grid) -> np.ndarray:
    """Token ids ``(B, count)`` as bool ``(B, tokens of the grid)``."""
    found = np.zeros((len(ids), grid.steps * grid.rows * grid.columns), dtype=bool)
    np.put_along_axis(found, ids.numpy(), True, axis=1)
    return found
