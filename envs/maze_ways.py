"""Shortest ways of a ball through a maze of square cells, exactly and for many pairs of points at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TOLERANCE = 1e-9  # a way may touch walls
_AT_ONCE = 100_000  # coordinates that are compared with walls in one operation


class MazeWays:
    """Lengths of shortest ways between points that keep `clearance` away from all walls.

    A shortest way is straight but for bends at corners of walls, so its length is that of the best way over
    the corners that its two ends see, with the ways between corners computed once (a visibility graph:
    Lozano-Perez & Wesley, 1979). The distance to walls is the greater of the two axes', so that a corner counts
    as square, and a way around it is up to 0.04 cells longer than a ball's at a clearance of 0.1.

    Args:
        walls: (rows, columns) bool, true where a cell is a wall; the outermost cells are walls and the free ones
            hang together. Cells have size 1, the maze's middle is the origin, x to the right and y up.
        clearance: below 0.5, where every free cell can still be passed.
    """

    def __init__(self, walls: Sequence[Sequence[bool]] | np.ndarray, clearance: float) -> None:
        self.walls = np.asarray(walls, dtype=bool)
        self.clearance = clearance
        self._blocks = _runs(self.walls) + np.array([1, 1, -1, -1]) * (_TOLERANCE - clearance)
        self.corners = self._corners()
        self._between = self._all_pairs()
        self._home = self._nearest_free_cells()

    def centers(self) -> np.ndarray:
        """Middles (n, 2) of the free cells, row by row."""
        return self._middle(np.argwhere(~self.walls))

    def lengths(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Lengths (...) of the shortest ways between points (..., 2) and (..., 2), broadcast together.

        Points nearer to a wall than the clearance count as moved away from it. Symmetric, and never less than
        the Euclidean distance.
        """
        starts, goals = np.asarray(starts, dtype=float), np.asarray(goals, dtype=float)
        straight = np.hypot(*np.moveaxis(starts - goals, -1, 0))
        moved, target = self.cleared(starts), self.cleared(goals)
        first, last = self._to_corners(moved), self._over_corners(target)
        bent = np.full(straight.shape, np.inf)
        for corner in range(len(self.corners)):  # one at a time: there may be many pairs
            np.minimum(bent, first[..., corner] + last[..., corner], out=bent)
        return np.where(self._sees(moved, target), straight, np.maximum(bent, straight))

    def next_bend(self, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Where the shortest way from `start` (2,) bends first, (2,); the goal if it is straight."""
        moved, target = self.cleared(start), self.cleared(goal)
        if self._sees(moved, target):
            return target
        return self.corners[np.argmin(self._to_corners(moved) + self._over_corners(target))]

    def cleared(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), those nearer to a wall than the clearance moved away from it, within their cell."""
        points = np.asarray(points, dtype=float)
        rows, columns = self.walls.shape
        row = np.clip(np.floor(rows / 2 - points[..., 1]).astype(int), 0, rows - 1)
        column = np.clip(np.floor(points[..., 0] + columns / 2).astype(int), 0, columns - 1)
        cell = self._home[row, column]
        row, column = cell[..., 0], cell[..., 1]
        middle, inner = self._middle(cell), 0.5 - self.clearance
        wall = self.walls
        east, west = (np.where(wall[row, column + side], inner, 0.5) for side in (1, -1))
        north, south = (np.where(wall[row + side, column], inner, 0.5) for side in (-1, 1))
        x = np.clip(points[..., 0] - middle[..., 0], -west, east)
        y = np.clip(points[..., 1] - middle[..., 1], -south, north)
        # In a corner whose diagonal cell alone is a wall: out by the nearer side.
        diagonal = wall[row - np.where(y > 0, 1, -1), column + np.where(x > 0, 1, -1)]
        dx, dy = np.abs(x) - inner, np.abs(y) - inner
        inside = diagonal & (dx > 0) & (dy > 0)
        x = np.where(inside & (dx <= dy), np.copysign(inner, x), x)
        y = np.where(inside & (dx > dy), np.copysign(inner, y), y)
        return middle + np.stack([x, y], axis=-1)

    def _middle(self, cells: np.ndarray) -> np.ndarray:
        """Middles (..., 2) of cells (..., 2), which are rows and columns."""
        rows, columns = self.walls.shape
        x, y = cells[..., 1] + 0.5 - columns / 2, rows / 2 - 0.5 - cells[..., 0]
        return np.stack([x, y], axis=-1)

    def _corners(self) -> np.ndarray:
        """Where ways may bend, (V, 2): at the points of the grid around which one cell of four is a wall."""
        found = []
        rows, columns = self.walls.shape
        for row, column in np.ndindex(rows - 1, columns - 1):
            around = np.argwhere(self.walls[row : row + 2, column : column + 2])
            if len(around) == 1:
                down, right = 1 - 2 * around[0]  # away from the wall
                point = np.array([column + 1 - columns / 2, rows / 2 - 1 - row])
                found.append(point + self.clearance * np.array([right, -down]))
        return np.array(found).reshape(-1, 2)

    def _all_pairs(self) -> np.ndarray:
        """Lengths (V, V) of the shortest ways between corners, by Floyd and Warshall."""
        corners = self.corners
        length = np.hypot(*np.moveaxis(corners[:, None] - corners[None], -1, 0))
        length = np.where(self._sees(corners[:, None], corners[None]), length, np.inf)
        for middle in range(len(corners)):
            np.minimum(length, length[:, middle, None] + length[None, middle], out=length)
        return length

    def _nearest_free_cells(self) -> np.ndarray:
        """For each cell the nearest free one, (rows, columns, 2)."""
        free = np.argwhere(~self.walls)
        cells = np.moveaxis(np.indices(self.walls.shape), 0, -1)
        apart = np.square(cells[:, :, None] - free).sum(axis=-1)
        return free[apart.argmin(axis=-1)]

    def _to_corners(self, points: np.ndarray) -> np.ndarray:
        """Distances (..., V) of points (..., 2) to the corners that they see; infinite to the others."""
        points = points[..., None, :]
        away = np.hypot(*np.moveaxis(points - self.corners, -1, 0))
        return np.where(self._sees(points, self.corners), away, np.inf)

    def _over_corners(self, points: np.ndarray) -> np.ndarray:
        """Lengths (..., V) of the shortest ways of points (..., 2) to all corners."""
        return (self._to_corners(points)[..., None, :] + self._between).min(axis=-1)

    def _sees(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether the lines between points (..., 2) and (..., 2), broadcast together, are free of walls."""
        step = (b - a)[..., None, :]
        step = np.where(step == 0, 1e-300, step)
        a = a[..., None, :]
        free = np.ones(step.shape[:-2], dtype=bool)
        parts = min(len(self._blocks), 1 + len(self._blocks) * step.size // _AT_ONCE)
        with np.errstate(over="ignore"):
            for blocks in np.array_split(self._blocks, parts):
                # The share of each line, from 0 to 1, that lies within a block's width, and within its height.
                one, other = (blocks[:, :2] - a) / step, (blocks[:, 2:] - a) / step
                enter = np.maximum(np.minimum(one, other).max(axis=-1), 0.0)
                leave = np.minimum(np.maximum(one, other).min(axis=-1), 1.0)
                free &= (enter >= leave).all(axis=-1)
        return free


def _runs(walls: np.ndarray) -> np.ndarray:
    """Rectangles (n, 4), left, bottom, right, top, which cover all walls but the outermost ones.

    Those block no line between two points inside. The rectangles are runs along the axis that has fewer of them.
    """
    rows, columns = walls.shape
    choices = []
    for grid in (walls, walls.T):
        runs = []
        for row in range(1, grid.shape[0] - 1):
            edges = np.diff(np.concatenate([[0], grid[row, 1:-1].astype(int), [0]]))
            starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
            runs += [(row, row + 1, start, end) for start, end in zip(starts, ends, strict=True)]
        choices.append(np.array(runs, dtype=float).reshape(-1, 4))
    across, down = choices
    if len(across) <= len(down):
        top, bottom, left, right = across.T
    else:
        left, right, top, bottom = down.T
    return np.stack([left - columns / 2, rows / 2 - bottom, right - columns / 2, rows / 2 - top], axis=-1)
