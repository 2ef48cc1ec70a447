"""PointMaze: a ball that is pushed through a maze, after gymnasium-robotics.

Mazes, ball, walls and motors are those of the PointMaze environments of gymnasium-robotics (Fu et al., D4RL,
arXiv:2004.07219), read from the installed package; the task is the one of latent planners (DINO-WM,
arXiv:2411.04983): roll to the place that a picture shows. The ball has inertia, so a single picture does not tell
where it is going.
"""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from envs.draw import BALL, FLOOR, WALL, TopDownCanvas
from envs.maze_ways import MazeWays
from envs.mujoco_world import MujocoTaskWorld

SUBSTEPS = 5
THRESHOLD = 0.45  # of gymnasium-robotics
DINO_WM_THRESHOLD = 0.5
MAX_SPEED = 5.0  # of gymnasium-robotics, along each axis; see _set_speed_limit
RADIUS = 0.1  # of the ball
CLEARANCE = RADIUS + 0.002  # of its centre; contacts begin at the package's margin
WALL_HEIGHT = 0.4

_CAUTION = 0.3  # the scripted policy keeps this far from walls
_INSTALL = "pip install worldmodel[pointmaze]"
_JOINTS = ("ball_x", "ball_y")
_POSITION, _VELOCITY = slice(1, 3), slice(3, 5)  # of the state vector; entry 0 is the time


class PointMaze(MujocoTaskWorld):
    """Push a ball through a maze.

    Observation: the picture, (64, 64, 3) uint8. Action: force (2,) float32 in units of the greatest one, 100 N,
    held for 0.05 s; the ball weighs 4.19 kg, so a step changes its speed by at most 1.2 units/s along each axis.
    The speed along each axis is limited to 5 units/s. State and options of `reset` are those of every
    `MujocoTaskWorld`. Cells have size 1; the middle of the maze is the origin.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64, or a multiple of it for a figure.
        threshold: a goal is reached within this distance, at any velocity.

    Raises:
        ValueError: gymnasium-robotics is not installed, or the threshold is not positive.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20.0}  # type: ignore[misc]
    substeps = SUBSTEPS
    task_mix: Mapping[str, float] = {"hard": 0.6, "easy": 0.4}

    #: Name of the maze in gymnasium_robotics.envs.maze.maps.
    maze: ClassVar[str]
    #: Tasks are at least as long as the first; from the second on, they are labelled "hard".
    lengths: ClassVar[tuple[float, float]]
    #: Half the picture's width in cells, chosen so that walls end between two pixels of 64.
    view_half: ClassVar[float]
    default_threshold: ClassVar[float] = THRESHOLD

    def __init__(
        self, render_mode: str | None = None, size: int = 64, threshold: float | None = None
    ) -> None:
        self.threshold = self.default_threshold if threshold is None else threshold
        if not self.threshold > 0:
            raise ValueError(f"threshold of PointMaze is a positive distance in cells, not {threshold}")
        walls, xml = _load(self.maze)
        canvas = TopDownCanvas(size, self.view_half, WALL)
        self._ways = MazeWays(walls, CLEARANCE)
        for x, y in self._ways.centers():
            canvas.add_rectangle((x - 0.5, x + 0.5), (y - 0.5, y + 0.5), FLOOR)
        super().__init__(xml, canvas, render_mode, actions=len(_JOINTS))
        self._cautious = MazeWays(walls, _CAUTION)
        # The package draws the ball with twice its radius. In a wide maze that would still be less than two pixels.
        self._drawn_radius = max(2 * RADIUS, 2.0 * 2 * self.view_half / 64)
        _set_speed_limit(self.model)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the ball is within `threshold` of the goal's, in a straight line; the velocity does not matter."""
        dx, dy = np.asarray(state)[_POSITION] - np.asarray(goal)[_POSITION]
        return bool(dx * dx + dy * dy <= self.threshold**2)

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Length in cells of the ball's shortest way through the maze.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        return self._ways.lengths(np.asarray(states)[..., _POSITION], np.asarray(goals)[..., _POSITION])

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start and a goal, both at rest and as far apart as `lengths` says, and the label, "hard" or "easy"."""
        while True:
            start, goal = self._free_position(rng), self._free_position(rng)
            length = self._ways.lengths(start, goal)
            if length >= self.lengths[0]:
                label = "hard" if length >= self.lengths[1] else "easy"
                return self.state_at(*start), self.state_at(*goal), label

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) of the hand-written policy: along the shortest way, slower before bends and the goal."""
        position, velocity = np.asarray(state)[_POSITION], np.asarray(state)[_VELOCITY]
        goal = np.asarray(goal)[_POSITION]
        bend = self._cautious.next_bend(position, goal)
        away = bend - position
        length = float(np.hypot(*away))
        at_bend = 0.0 if np.hypot(*(bend - self._cautious.cleared(goal))) < 1e-6 else 2.5
        speed = min(4.5, np.sqrt(at_bend**2 + 24.0 * length))
        wanted = away * (speed / max(length, 1e-6))
        force = 0.8 * (wanted - velocity)
        return (force / max(1.0, np.abs(force).max())).astype(np.float32)

    @property
    def background(self) -> np.ndarray:
        """The picture without the ball, (H, W, 3) float64."""
        return self._canvas.background

    def paint(self, picture: np.ndarray, state: np.ndarray) -> None:
        """Paint the ball of a state (S,) over a picture (H, W, 3) of floats, in place."""
        x, y = np.asarray(state)[_POSITION]
        self._canvas.paint_disc(picture, x, y, self._drawn_radius, BALL)

    def _draw(self, configuration: np.ndarray) -> np.ndarray:
        x, y = configuration
        return self._canvas.with_disc(x, y, self._drawn_radius, BALL)

    def _free_position(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform position (2,) among those where the ball touches no wall."""
        centers = self._ways.centers()
        while True:
            position = centers[rng.integers(len(centers))] + rng.uniform(-0.5, 0.5, 2)
            if (self._ways.cleared(position) == position).all():
                return position


class PointMazeUMaze(PointMaze):
    """`PointMaze` in the U-shaped maze: two corridors and a bend."""

    maze = "U_MAZE"
    lengths = (2.5, 3.5)
    view_half = 32 / 18
    horizon = 40


class PointMazePublishedUMaze(PointMazeUMaze):
    """`PointMazeUMaze` with DINO-WM's threshold, 0.5."""

    default_threshold = DINO_WM_THRESHOLD


class PointMazeMedium(PointMaze):
    """`PointMaze` in the medium maze, 6 x 6 cells."""

    maze = "MEDIUM_MAZE"
    lengths = (3.0, 5.0)
    view_half = 32 / 10
    horizon = 80


class PointMazeLarge(PointMaze):
    """`PointMaze` in the large maze, 10 x 7 cells."""

    maze = "LARGE_MAZE"
    lengths = (4.0, 8.0)
    view_half = 32 / 6
    horizon = 140


@lru_cache(maxsize=8)
def _load(maze: str) -> tuple[np.ndarray, str]:
    """A maze of gymnasium-robotics: its walls (rows, columns) bool, and the MuJoCo model of its point with them.

    Only two files of the package are read. Importing it would register some hundreds of environments and print
    warnings about them.
    """
    spec = importlib.util.find_spec("gymnasium_robotics")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"PointMaze needs gymnasium-robotics: {_INSTALL}")
    envs = Path(spec.submodule_search_locations[0]) / "envs"
    maps, point = envs / "maze" / "maps.py", envs / "assets" / "point" / "point.xml"
    for path in (maps, point):
        if not path.is_file():
            raise ValueError(f"PointMaze needs {path}, which gymnasium-robotics 1.4 has: {_INSTALL}")
    file = importlib.util.spec_from_file_location("worldmodel_maze_maps", maps)
    assert file is not None and file.loader is not None
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    walls = np.array(getattr(module, maze)) == 1
    return walls, _xml(walls, point)


def _xml(walls: np.ndarray, point: Path) -> str:
    """The package's point in the maze: blocks as the package places them, and two speed limiters per axis.

    Left out is what changes no motion: looks, the floor, which the ball touches without friction, and blocks
    that it cannot reach.
    """
    root = ET.parse(point).getroot()
    for tag in ("asset", "visual"):
        if (element := root.find(tag)) is not None:
            root.remove(element)
    world, actuators = root.find("worldbody"), root.find("actuator")
    assert world is not None and actuators is not None
    world[:] = [element for element in world if element.get("name") != "ground"]
    rows, columns = walls.shape
    around = np.pad(walls, 1, constant_values=True)
    for row, column in np.argwhere(walls):
        if around[row : row + 3, column : column + 3].all():
            continue
        x, y = column + 0.5 - columns / 2, rows / 2 - 0.5 - row
        block = {"name": f"block_{row}_{column}", "type": "box", "contype": "1", "conaffinity": "1"}
        half = WALL_HEIGHT / 2
        ET.SubElement(world, "geom", {**block, "pos": f"{x} {y} {half}", "size": f"0.5 0.5 {half}"})
    for joint in _JOINTS:
        for side, force in (("below", "-1e9 0"), ("above", "0 1e9")):
            limiter = {"name": f"{joint}_{side}", "joint": joint, "forcelimited": "true", "forcerange": force}
            ET.SubElement(actuators, "general", {**limiter, "gainprm": "0", "biastype": "affine"})
    ET.SubElement(root, "size", {"memory": "64K"})
    return ET.tostring(root, encoding="unicode")


def _set_speed_limit(model: Any) -> None:
    """Give the speed limiters the force that takes away, within one substep, what is over `MAX_SPEED`.

    gymnasium-robotics clips the velocity between MuJoCo's steps, where a batched simulator could not. Euler's
    rule with the mass m, damping d and timestep h makes of a velocity v under a force f
    (v m + h f) / (m + h d). With f - m (v - limit) / h in place of f that is what it makes of the limit. So the
    motion is the same but for rounding, except in a substep in which the ball hits a wall at more than the limit.
    """
    stiffness = model.body_mass[model.body("particle").id] / model.opt.timestep
    for joint in _JOINTS:
        for side, limit in (("below", MAX_SPEED), ("above", -MAX_SPEED)):
            bias = model.actuator(f"{joint}_{side}").biasprm
            bias[:3] = stiffness * limit, 0.0, -stiffness
