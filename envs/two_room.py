"""TwoRoom: a ball in two rooms joined by a door, seen from above.

The two-room world is the usual small test of latent planners (DINO-WM's Wall, arXiv:2411.04983; PLDM,
arXiv:2502.14819): the straight line to the goal is often a dead end, so a planner needs a model that knows
about walls. This one is a MuJoCo point mass, so that it has exact state, real contacts and a fast batched
simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from envs.draw import BALL, FLOOR, WALL, TopDownCanvas
from envs.mujoco_world import MujocoTaskWorld

ROOM = 1.0  # the floor is [-1, 1] x [-1, 1]
WALL_HALF = 1.0 / 14.0  # 2 pixels of a 64-pixel picture, as every other edge falls between two pixels too
DOOR_HALF = 0.25  # the door is at y = 0
RADIUS = 0.09  # of the ball
REACH = ROOM - RADIUS  # the ball's centre stays within this
VIEW_HALF = 8.0 / 7.0  # half the picture's width: 28 pixels per unit and 4 pixels of outer wall at 64

# For the ball's centre, the inner wall grows by the radius: it blocks |x| < GATE wherever |y| > OPENING.
GATE = WALL_HALF + RADIUS
OPENING = DOOR_HALF - RADIUS

SUBSTEPS = 15
TIMESTEP = 0.01
SUCCESS_DISTANCE = 0.1
MIN_TASK_DISTANCE = 0.5

_POSITION = slice(1, 3)  # of the state vector; entry 0 is the time

# Joint limits stand for the outer walls, contacts have no friction and only the ball can touch the two wall
# boxes: that is all the physics there is, and it keeps a step of 15 substeps below 0.05 ms.
_XML = f"""
<mujoco model="two_room">
  <option timestep="{TIMESTEP}" integrator="implicitfast" gravity="0 0 0"/>
  <size memory="64K"/>
  <worldbody>
    <geom name="upper_wall" type="box" pos="0 {(1.1 + DOOR_HALF) / 2} 0" condim="1"
          size="{WALL_HALF} {(1.1 - DOOR_HALF) / 2} 0.1"/>
    <geom name="lower_wall" type="box" pos="0 {-(1.1 + DOOR_HALF) / 2} 0" condim="1"
          size="{WALL_HALF} {(1.1 - DOOR_HALF) / 2} 0.1"/>
    <body name="ball">
      <joint name="x" type="slide" axis="1 0 0" limited="true" range="{-REACH} {REACH}"/>
      <joint name="y" type="slide" axis="0 1 0" limited="true" range="{-REACH} {REACH}"/>
      <geom name="ball" type="sphere" size="{RADIUS}" mass="1" condim="1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity name="vx" joint="x" kv="100" ctrllimited="true" ctrlrange="-1 1"/>
    <velocity name="vy" joint="y" kv="100" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


class TwoRoom(MujocoTaskWorld):
    """Push a ball through a door.

    Observation: the picture, (64, 64, 3) uint8. Action: wanted velocity (2,) float32 in [-1, 1] units/s,
    held for 0.15 s, so a step moves the ball at most 0.15 units along each axis. State and options of
    `reset` are those of every `MujocoTaskWorld`; a goal is reached within 0.1 units of it.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted for a figure.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium declares it on instances
        "render_modes": ["rgb_array"],
        "render_fps": 1.0 / (SUBSTEPS * TIMESTEP),
    }
    horizon = 40
    substeps = SUBSTEPS
    task_mix: Mapping[str, float] = {"other room": 0.6, "same room": 0.4}

    def __init__(self, render_mode: str | None = None, size: int = 64) -> None:
        canvas = TopDownCanvas(size, VIEW_HALF, WALL)
        canvas.add_rectangle((-ROOM, ROOM), (-ROOM, ROOM), FLOOR)
        for y in ((DOOR_HALF, ROOM), (-ROOM, -DOOR_HALF)):
            canvas.add_rectangle((-WALL_HALF, WALL_HALF), y, WALL)
        super().__init__(_XML, canvas, render_mode)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the ball is within 0.1 units of the goal's; the velocity does not matter."""
        dx, dy = np.asarray(state)[_POSITION] - np.asarray(goal)[_POSITION]
        return bool(dx * dx + dy * dy <= SUCCESS_DISTANCE**2)

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Length in units of the ball's shortest way, through the door where needed.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        return shortest_way(np.asarray(states)[..., _POSITION], np.asarray(goals)[..., _POSITION])[0]

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start, a goal whose way from it is 0.5 units or longer, both at rest, and the task's label."""
        label = str(rng.choice(list(self.task_mix), p=list(self.task_mix.values())))
        while True:
            start, goal = self._free_position(rng), self._free_position(rng)
            crosses = bool(start[0] * goal[0] < 0)
            if crosses == (label == "other room") and shortest_way(start, goal)[0] >= MIN_TASK_DISTANCE:
                return self.state_at(*start), self.state_at(*goal), label

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) of the hand-written policy: straight at the goal, or at the door first."""
        position, target = np.asarray(state)[_POSITION], np.asarray(goal)[_POSITION]
        if position[0] * target[0] < 0 or abs(position[0]) < GATE:
            # Keep clear of the door's posts; once at the near side of the door, aim at its far side.
            _, first, second = shortest_way(position, target, opening=0.75 * OPENING)
            ahead = (first, second) if position[0] < target[0] else (second, first)
            target = next((p for p in ahead if np.hypot(*(p - position)) > 0.03), target)
        velocity = (target - position) / (SUBSTEPS * TIMESTEP)
        return (velocity / max(1.0, np.abs(velocity).max())).astype(np.float32)

    @property
    def background(self) -> np.ndarray:
        """The picture without the ball, (H, W, 3) float64."""
        return self._canvas.background

    def paint(self, picture: np.ndarray, state: np.ndarray) -> None:
        """Paint the ball of a state (S,) over a picture (H, W, 3) of floats, in place."""
        x, y = np.asarray(state)[_POSITION]
        self._canvas.paint_disc(picture, x, y, RADIUS, BALL)

    def _draw(self, qpos: np.ndarray) -> np.ndarray:
        x, y = qpos
        return self._canvas.with_disc(x, y, RADIUS, BALL)

    def _free_position(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform position (2,) in either room, clear of all walls; never in the doorway."""
        side = rng.choice((-1.0, 1.0))
        return np.array([side * rng.uniform(GATE, REACH), rng.uniform(-REACH, REACH)])


def shortest_way(
    start: np.ndarray, goal: np.ndarray, gate: float = GATE, opening: float = OPENING
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shortest way of the ball's centre between positions (..., 2); the door's posts count as square.

    The doorway is entered and left through two gates, the segments x = -gate and x = +gate with |y| <=
    opening. The way is straight between gates, and its length is convex in the two crossing heights, so the
    minimum lies at the straight line or on an edge of the box that the heights may take: five candidates.

    Returns:
        Length (...), and the left and the right crossing (..., 2); where a gate is not on the way, its
        crossing is the end of the way on that side. Symmetric in start and goal, and never less than the
        Euclidean distance.
    """
    start, goal = np.broadcast_arrays(np.asarray(start, dtype=float), np.asarray(goal, dtype=float))
    straight = np.hypot(*np.moveaxis(start - goal, -1, 0))
    start, goal = _out_of_the_wall(start, gate, opening), _out_of_the_wall(goal, gate, opening)
    swap = (start[..., 0] > goal[..., 0])[..., None]
    ax, ay = np.moveaxis(np.where(swap, goal, start), -1, 0)
    bx, by = np.moveaxis(np.where(swap, start, goal), -1, 0)

    # A gate that is not between the two points shrinks to the point on its side.
    left, right = (ax <= -gate) & (bx > -gate), (ax < gate) & (bx >= gate)
    x1, low1, high1 = np.where(left, -gate, ax), np.where(left, -opening, ay), np.where(left, opening, ay)
    x2, low2, high2 = np.where(right, gate, bx), np.where(right, -opening, by), np.where(right, opening, by)

    def towards(x: np.ndarray, xa: np.ndarray, ya: np.ndarray, xb: np.ndarray, yb: np.ndarray) -> np.ndarray:
        """Height at x of the line from a to b."""
        run = np.where(xb == xa, 1.0, xb - xa)
        return ya + (yb - ya) * (x - xa) / run

    straight1 = np.clip(towards(x1, ax, ay, bx, by), low1, high1)
    straight2 = np.clip(towards(x2, ax, ay, bx, by), low2, high2)
    best1 = [np.clip(towards(x1, ax, ay, x2, y), low1, high1) for y in (low2, high2)]
    best2 = [np.clip(towards(x2, x1, y, bx, by), low2, high2) for y in (low1, high1)]
    y1 = np.stack([straight1, low1, high1, *best1])
    y2 = np.stack([straight2, *best2, low2, high2])
    lengths = np.hypot(x1 - ax, y1 - ay) + np.hypot(x2 - x1, y2 - y1) + np.hypot(bx - x2, by - y2)
    best = lengths.argmin(axis=0)[None]
    length, y1, y2 = (np.take_along_axis(v, best, axis=0)[0] for v in (lengths, y1, y2))
    # Neither rounding nor the shift out of the wall may beat the straight line; it is exact without a gate.
    length = np.where(left | right, np.maximum(length, straight), straight)
    return length, np.stack([x1, y1], axis=-1), np.stack([x2, y2], axis=-1)


def _out_of_the_wall(points: np.ndarray, gate: float, opening: float) -> np.ndarray:
    """Shift positions (..., 2) out of the grown wall, to the nearer of the room beside it and the doorway.

    Contacts are soft, so a ball that is pushed against the wall is about 0.002 units inside; without this, it
    would count as standing in the doorway, and the way through the wall as free.
    """
    x, y = points[..., 0], points[..., 1]
    to_room, to_door = gate - np.abs(x), np.abs(y) - opening
    inside = (to_room > 0) & (to_door > 0)
    x = np.where(inside & (to_room <= to_door), np.copysign(gate, x), x)
    y = np.where(inside & (to_room > to_door), np.copysign(opening, y), y)
    return np.stack([x, y], axis=-1)
