"""Pictures of PushT: a table with walls, the block, the agent on top; drawn by numpy, with anti-aliased edges."""

from __future__ import annotations

import math

import numpy as np

from envs.draw import FLOOR, WALL, Color, paint_capsule
from envs.push_t_geometry import (
    AGENT_RADIUS,
    BAR_END,
    BAR_HALF,
    CENTER,
    EXTENT,
    INNER_WALL,
    SIDE,
    STEM_END,
    STEM_HALF,
    to_world,
)

AGENT: Color = (36, 92, 168)
BLOCK: Color = (236, 140, 28)


class Picture:
    """Draws states of `envs.push_t.PushT`; y points down, as in gym-pusht's pictures.

    Args:
        size: height and width of the picture in pixels.
    """

    def __init__(self, size: int) -> None:
        self._scale = size / SIDE
        edges = np.arange(size) / self._scale
        inside = np.minimum(INNER_WALL[1], edges + 1.0 / self._scale) - np.maximum(INNER_WALL[0], edges)
        share = np.clip(inside * self._scale, 0.0, 1.0)
        alpha = (share[:, None] * share)[..., None]
        self._table = alpha * np.asarray(FLOOR, dtype=float) + (1.0 - alpha) * np.asarray(WALL, dtype=float)

    @property
    def table(self) -> np.ndarray:
        """The picture without agent and block, (size, size, 3) float64; a copy."""
        return self._table.copy()

    def draw(self, agent: np.ndarray, place: np.ndarray, angle: float) -> np.ndarray:
        """The picture (size, size, 3) uint8 of an agent at (2,) and a block at (2,), turned by an angle in rad."""
        picture = self._table.copy()
        self.paint(picture, agent, place, angle)
        return (picture + 0.5).astype(np.uint8)

    def paint(self, picture: np.ndarray, agent: np.ndarray, place: np.ndarray, angle: float) -> None:
        """Paint agent and block, as in `draw`, over a picture (size, size, 3) of floats, in place."""
        scale = self._scale
        middle = to_world(CENTER, place, angle) * scale
        low = np.clip((middle - EXTENT * scale - 1.0).astype(int), 0, len(picture))  # only the pixels near it
        high = np.clip((middle + EXTENT * scale + 2.0).astype(int), 0, len(picture))
        x, y = ((np.arange(low[k], high[k]) + 0.5) / scale - place[k] for k in (0, 1))
        c, s = math.cos(angle), math.sin(angle)
        along, down = np.abs(c * x + (s * y)[:, None]), (c * y)[:, None] - s * x  # in the block's frame
        bar = np.maximum(along - BAR_HALF, np.abs(down - BAR_END / 2) - BAR_END / 2)
        # The stem begins at the bar's upper edge, not the lower one, so that no seam shows.
        stem = np.maximum(along - STEM_HALF, np.abs(down - STEM_END / 2) - STEM_END / 2)
        alpha = np.clip(0.5 - scale * np.minimum(bar, stem), 0.0, 1.0)[..., None]
        patch = picture[low[1] : high[1], low[0] : high[0]]
        patch += alpha * (np.asarray(BLOCK, dtype=float) - patch)
        spot = float(agent[0]) * scale, float(agent[1]) * scale
        paint_capsule(picture, spot, spot, AGENT_RADIUS * scale, AGENT)
