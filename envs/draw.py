"""Top-down pictures drawn with numpy: no OpenGL, the same pixels on every machine.

Edges are anti-aliased by area coverage, so that a move of a tenth of a pixel is visible in the picture.
"""

from __future__ import annotations

import numpy as np

Color = tuple[int, int, int]

FLOOR: Color = (242, 241, 236)
WALL: Color = (44, 50, 64)
BALL: Color = (222, 32, 38)


class TopDownCanvas:
    """A square window onto the plane, centred on the origin, x to the right and y up.

    Args:
        size: height and width of the picture in pixels.
        half_view: half the width of the window in world units.
        background: colour of the empty plane.
    """

    def __init__(self, size: int, half_view: float, background: Color) -> None:
        self.size = size
        self.half_view = half_view
        self.scale = size / (2.0 * half_view)  # pixels per unit
        self._pixels = np.empty((size, size, 3))
        self._pixels[:] = background
        self._rounded = self._pixels.astype(np.uint8)
        self._centers = np.arange(size) + 0.5

    def add_rectangle(self, x: tuple[float, float], y: tuple[float, float], color: Color) -> None:
        """Paint an axis-aligned rectangle into the background; `x` and `y` are (low, high) in world units."""
        columns = self._coverage(*(self._column(v) for v in x))
        rows = self._coverage(self._row(y[1]), self._row(y[0]))
        alpha = (rows[:, None] * columns[None, :])[..., None]
        self._pixels += alpha * (np.asarray(color, dtype=float) - self._pixels)
        self._rounded = np.floor(self._pixels + 0.5).astype(np.uint8)

    def with_disc(self, x: float, y: float, radius: float, color: Color) -> np.ndarray:
        """The background with one disc on it, (size, size, 3) uint8; computes only the pixels near it."""
        picture = self._rounded.copy()
        column, row, reach = self._column(x), self._row(y), radius * self.scale
        left, right = max(int(column - reach - 1), 0), min(int(column + reach + 2), self.size)
        top, bottom = max(int(row - reach - 1), 0), min(int(row + reach + 2), self.size)
        if left >= right or top >= bottom:  # outside the window
            return picture
        dx = self._centers[left:right] - column
        dy = self._centers[top:bottom] - row
        distance = np.sqrt(dx * dx + (dy * dy)[:, None])
        alpha = np.clip(reach - distance + 0.5, 0.0, 1.0)[..., None]
        patch = self._pixels[top:bottom, left:right]
        picture[top:bottom, left:right] = patch + alpha * (np.asarray(color, dtype=float) - patch) + 0.5
        return picture

    @property
    def background(self) -> np.ndarray:
        """The background alone, (size, size, 3) float64, not rounded; a copy."""
        return self._pixels.copy()

    def paint_disc(self, picture: np.ndarray, x: float, y: float, radius: float, color: Color) -> None:
        """Paint a disc over a picture (size, size, 3) of floats, in place; see `with_disc`."""
        middle = self._column(x), self._row(y)
        paint_capsule(picture, middle, middle, radius * self.scale, color)

    def _column(self, x: float) -> float:
        return (x + self.half_view) * self.scale

    def _row(self, y: float) -> float:
        return (self.half_view - y) * self.scale

    def _coverage(self, low: float, high: float) -> np.ndarray:
        """The share of each pixel, (size,), that lies between two pixel coordinates."""
        edges = np.arange(self.size)
        return np.clip(np.minimum(high, edges + 1) - np.maximum(low, edges), 0.0, 1.0)


def paint_capsule(
    picture: np.ndarray,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    color: Color,
) -> None:
    """Paint a line with round ends over a picture (H, W, 3) of floats, in place; only the pixels near it change.

    Args:
        picture: RGB from 0 to 255, not rounded, so that several shapes blend as they should.
        start, end: middle of the two ends in pixels, (column, row) from the upper left corner. A disc if equal.
        radius: half the line's width in pixels.
        color: RGB.
    """
    (ax, ay), (bx, by) = start, end
    height, width = picture.shape[:2]
    left, right = max(int(min(ax, bx) - radius - 1), 0), min(int(max(ax, bx) + radius + 2), width)
    top, bottom = max(int(min(ay, by) - radius - 1), 0), min(int(max(ay, by) + radius + 2), height)
    if left >= right or top >= bottom:  # outside the picture
        return
    x = np.arange(left, right) + (0.5 - ax)
    y = (np.arange(top, bottom) + (0.5 - ay))[:, None]
    dx, dy = bx - ax, by - ay
    if length := dx * dx + dy * dy:  # distances are from the nearest point of the line
        along = np.clip((x * dx + y * dy) / length, 0.0, 1.0)
        x, y = x - along * dx, y - along * dy
    alpha = np.clip(radius + 0.5 - np.sqrt(x * x + y * y), 0.0, 1.0)[..., None]
    patch = picture[top:bottom, left:right]
    patch += alpha * (np.asarray(color, dtype=float) - patch)
