"""The shape of PushT's block, in px: its own frame has x along the bar and y down the stem."""

from __future__ import annotations

import numpy as np

SIDE = 512.0  # of the table
AGENT_RADIUS = 15.0
INNER_WALL = (7.0, 504.0)  # the walls' inner sides, along both axes
BAR_HALF, BAR_END = 60.0, 30.0  # the bar covers |x| <= 60, 0 <= y <= 30
STEM_HALF, STEM_END = 15.0, 120.0  # the stem |x| <= 15, 30 <= y <= 120
CENTER = np.array([0.0, 45.0])  # the centre of gravity in the block's frame
EXTENT = 77.0  # no point of the block is further from there
GYRATION = 3000.0**0.5  # radius of gyration: the block's inertia is its mass times the square of this

OUTLINE = np.array(  # the corners (8, 2) in order
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=float
)
# Bar and stem as boxes; the stem's begins at y = 0, so that a point of the seam counts as well inside.
_MIDDLE = np.array([[0.0, BAR_END / 2], [0.0, STEM_END / 2]])
_HALF = np.array([[BAR_HALF, BAR_END / 2], [STEM_HALF, STEM_END / 2]])


def rotate(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Vectors (..., 2) turned by angles (...) in rad."""
    c, s = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([c * x - s * y, s * x + c * y], axis=-1)


def to_world(points: np.ndarray, place: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Points (..., 2) of the block's frame on the table, for a block at `place` (..., 2) turned by `angle` (...)."""
    return place + rotate(points, angle)


def to_block(points: np.ndarray, place: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Points (..., 2) of the table in the block's frame."""
    return rotate(points - place, -np.asarray(angle))


def outside(points: np.ndarray) -> np.ndarray:
    """Distance (...) of points (..., 2) in the block's frame from the block; negative inside."""
    beyond = np.abs(points[..., None, :] - _MIDDLE) - _HALF
    away = np.sqrt(np.square(np.maximum(beyond, 0.0)).sum(axis=-1))
    return (away + np.minimum(beyond.max(axis=-1), 0.0)).min(axis=-1)


def blocked(start: np.ndarray, ends: np.ndarray, margin: float) -> np.ndarray:
    """Whether the straight ways from `start` (..., 2) to `ends` (..., 2) meet the block, grown by a margin; (...)."""
    half = _HALF + margin
    start, ends = np.broadcast_arrays(start, ends)
    begin, way = start[..., None, :] - _MIDDLE, (ends - start)[..., None, :]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    first, second = (-half - begin) / way, (half - begin) / way
    enter = np.minimum(first, second).max(axis=-1)
    leave = np.maximum(first, second).min(axis=-1)
    return ((enter < leave) & (leave > 1e-9) & (enter < 1.0 - 1e-9)).any(axis=-1)


def out_of(point: np.ndarray, margin: float) -> np.ndarray:
    """The point (2,) itself, or where it leaves the block, grown by a margin, on the shortest way out."""
    half = _HALF + margin
    offset = point - _MIDDLE
    if not (np.abs(offset) < half).all(axis=-1).any():
        return point
    sides = np.concatenate([_MIDDLE - half, _MIDDLE + half])  # (4, 2): lower and upper limits of both boxes
    exits = np.repeat(point[None], 8, axis=0)
    exits[:4, 0], exits[4:, 1] = sides[:, 0], sides[:, 1]
    inside = (np.abs(exits[:, None] - _MIDDLE) < half - 1e-9).all(axis=-1).any(axis=-1)
    length = np.where(inside, np.inf, np.abs(exits - point).sum(axis=-1))
    return exits[length.argmin()]
