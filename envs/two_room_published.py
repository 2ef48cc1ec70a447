"""The two-room worlds of published results: their geometry, speed and success, simulated by MuJoCo.

`TwoRoomPublished` has the fixed wall of stable-worldmodel's TwoRoom-v1, which LeWM's numbers are measured on
(arXiv:2603.19312); `TwoRoomRandomWall` the wall of eb_jepa's TwoRooms, which stands elsewhere in every episode
(after PLDM, arXiv:2502.14819). Lengths are pixels of the published pictures. docs/worlds.md says what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import mujoco
import numpy as np

from envs.draw import BALL, FLOOR, WALL, TopDownCanvas
from envs.mujoco_world import MujocoTaskWorld
from envs.two_room import shortest_way

SUBSTEPS = 10
TIMESTEP = 0.01
_STEP = SUBSTEPS * TIMESTEP  # seconds

_POSITION = slice(1, 3)  # of the state vector; entry 0 is the time


@dataclass(frozen=True)
class Layout:
    """A published two-room world. Lengths in pixels of its pictures, positions from the picture's middle, y up.

    Attributes:
        view_half: half the picture's width.
        border: the ball's centre stays within this, on both axes.
        margin: starts and goals stay away from the border and from the gates by this.
        gate: the ball's centre is stopped this far from the middle of the wall ...
        opening: ... unless it is this close to the middle of the door.
        drawn_floor: half the width of the floor in the picture.
        drawn_wall: half the wall's thickness in the picture.
        drawn_door: half the door's height in the picture.
        drawn_ball: radius of the ball in the picture.
        speed: of action 1, in pixels per step.
        reach: a goal is reached when the ball is nearer than this.
        min_way: a task's way is at least as long as this.
        walls: range (low, high) of the wall's x, in whole pixels.
        doors: range (low, high) of the door's y, in whole pixels.
    """

    view_half: float
    border: float
    margin: float
    gate: float
    opening: float
    drawn_floor: float
    drawn_wall: float
    drawn_door: float
    drawn_ball: float
    speed: float
    reach: float
    min_way: float
    walls: tuple[int, int]
    doors: tuple[int, int]


# A published ball is a Gaussian blob; ours is a disc, as wide as the blob at half its height (1.177 std).
SWM = Layout(
    view_half=112.0,
    border=91.0,
    margin=6.0,
    gate=12.0,
    opening=15.75,
    drawn_floor=98.0,
    drawn_wall=5.25,
    drawn_door=14.0,
    drawn_ball=8.25,
    speed=5.0,
    reach=16.0,
    min_way=75.0,
    walls=(0, 0),
    doors=(63, 63),
)
EB_JEPA = Layout(
    view_half=32.5,
    border=28.0,
    margin=2.6,
    gate=1.0,
    opening=4.0,
    drawn_floor=27.5,
    drawn_wall=1.5,
    drawn_door=4.5,
    drawn_ball=1.5,
    speed=2.45,
    reach=4.5,
    min_way=10.0,
    walls=(-12, 12),
    doors=(-22, 22),
)


def _xml(layout: Layout) -> str:
    """The ball is a small one, and the wall so thick that the ball's centre stops where it should.

    The wall is a mocap body, whose position is part of the state. Its two parts reach past the border wherever
    the door is. The motors' stiffness is the one with which Euler's rule makes the wanted speed of any speed
    within one substep, so that steps are exact and the ball has no inertia that could be seen.
    """
    ball = 0.5 * layout.gate
    wall, door, far = layout.gate - ball, layout.opening + ball, 3 * layout.border
    height, middle = (far - door) / 2, (far + door) / 2
    part = f'type="box" size="{wall} {height} {ball}" condim="1" solimp="0.9999 0.9999 0.001"'
    limits = f'limited="true" range="{-layout.border} {layout.border}" solimplimit="0.9999 0.9999 0.001"'
    stiffness = 1 / TIMESTEP  # times the ball's mass, 1
    motor = (
        f'gainprm="{stiffness * layout.speed / _STEP}" biastype="affine" biasprm="0 0 {-stiffness}" '
        'ctrllimited="true" ctrlrange="-1 1"'
    )
    return f"""
    <mujoco model="two_room_published">
      <option timestep="{TIMESTEP}" integrator="Euler" gravity="0 0 0"/>
      <size memory="64K"/>
      <worldbody>
        <body name="wall" mocap="true">
          <geom name="upper_wall" pos="0 {middle} 0" {part}/>
          <geom name="lower_wall" pos="0 {-middle} 0" {part}/>
        </body>
        <body name="ball">
          <joint name="x" type="slide" axis="1 0 0" {limits}/>
          <joint name="y" type="slide" axis="0 1 0" {limits}/>
          <geom name="ball" type="sphere" size="{ball}" mass="1" condim="1" solimp="0.9999 0.9999 0.001"/>
        </body>
      </worldbody>
      <actuator>
        <general name="vx" joint="x" {motor}/>
        <general name="vy" joint="y" {motor}/>
      </actuator>
    </mujoco>
    """


class _Published(MujocoTaskWorld):
    """A two-room world in a published layout; see its subclasses."""

    layout: ClassVar[Layout]
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1.0 / _STEP}  # type: ignore[misc]
    substeps = SUBSTEPS

    def __init__(self, render_mode: str | None = None, size: int = 64) -> None:
        super().__init__(_xml(self.layout), _canvas(self.layout, size, 0.0, 0.0), render_mode)
        # The wall's and the door's position are the first two numbers of the wall's mocap position.
        mocap = int(mujoco.mjtState.mjSTATE_MOCAP_POS)
        before = int(mujoco.mjtState.mjSTATE_INTEGRATION) & (mocap - 1)
        self._wall = mujoco.mj_stateSize(self.model, before) + np.arange(2)
        self._configuration = np.concatenate([np.arange(self._qpos.start, self._qpos.stop), self._wall])

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the ball is nearer to the goal's than the published distance; the velocity does not matter."""
        dx, dy = np.asarray(state)[_POSITION] - np.asarray(goal)[_POSITION]
        return bool(dx * dx + dy * dy < self.layout.reach**2)

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Length in pixels of the ball's shortest way, through the door of `states` where needed.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        states, goals = np.asarray(states), np.asarray(goals)
        return self._way(states[..., _POSITION], goals[..., _POSITION], states[..., self._wall])[0]

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start and a goal between the same walls, both at rest, at least `layout.min_way` apart, and the label."""
        label = str(rng.choice(list(self.task_mix), p=list(self.task_mix.values())))
        while True:
            start, goal = self._free_position(rng), self._free_position(rng)
            goal[2:] = start[2:]
            crosses = bool((start[0] - start[2]) * (goal[0] - start[2]) < 0)
            if not self._is_free(goal) or crosses != (label == "other room"):
                continue
            if self._way(start[:2], goal[:2], start[2:])[0] >= self.layout.min_way:
                return self.state_at(*start), self.state_at(*goal), label

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) of the hand-written policy: straight at the goal, or at the door first."""
        state, layout = np.asarray(state), self.layout
        position, target, wall = state[_POSITION], np.asarray(goal)[_POSITION], state[self._wall]
        if (position[0] - wall[0]) * (target[0] - wall[0]) < 0 or abs(position[0] - wall[0]) < layout.gate:
            # Keep clear of the door's posts; once at the near side of the door, aim at its far side.
            _, first, second = self._way(position, target, wall, clear=0.5)
            ahead = (first, second) if position[0] < target[0] else (second, first)
            target = next((p for p in ahead if np.hypot(*(p - position)) > 0.2 * layout.speed), target)
        action = (target - position) / layout.speed
        return (action / max(1.0, np.abs(action).max())).astype(np.float32)

    def _way(
        self, start: np.ndarray, goal: np.ndarray, wall: np.ndarray, clear: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`shortest_way` of positions (..., 2) when wall and door are at (..., 2); `clear` pixels off the posts."""
        gate, opening = self.layout.gate + clear, self.layout.opening - clear
        length, first, second = shortest_way(start - wall, goal - wall, gate, opening)
        return length, first + wall, second + wall

    def _draw(self, configuration: np.ndarray) -> np.ndarray:
        x, y, wall, door = configuration.tolist()
        canvas = _canvas(self.layout, self._canvas.size, wall, door)
        return canvas.with_disc(x, y, self.layout.drawn_ball, BALL)

    def _free_position(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform position in either room, and where the wall and the door are: (4,); never in the doorway."""
        wall, door = (
            rng.integers(*bounds, endpoint=True) for bounds in (self.layout.walls, self.layout.doors)
        )
        within = self.layout.border - self.layout.margin
        while True:
            configuration = np.array([*rng.uniform(-within, within, 2), wall, door])
            if self._is_free(configuration):
                return configuration

    def _is_free(self, configuration: np.ndarray) -> bool:
        return bool(abs(configuration[0] - configuration[2]) > self.layout.gate + self.layout.margin)


@lru_cache(maxsize=32)
def _canvas(layout: Layout, size: int, wall: float, door: float) -> TopDownCanvas:
    """The empty rooms; kept for the walls in use, since drawing them costs more than the ball."""
    canvas = TopDownCanvas(size, layout.view_half, WALL)
    floor = layout.drawn_floor
    canvas.add_rectangle((-floor, floor), (-floor, floor), FLOOR)
    for y in ((door + layout.drawn_door, floor), (-floor, door - layout.drawn_door)):
        canvas.add_rectangle((wall - layout.drawn_wall, wall + layout.drawn_wall), y, WALL)
    return canvas


class TwoRoomPublished(_Published):
    """The two rooms of stable-worldmodel's TwoRoom-v1, on which LeWM is measured (arXiv:2603.19312).

    Lengths are pixels of its 224 x 224 pictures, from the middle of the picture, y up. Observation: the
    picture, (64, 64, 3) uint8. Action: a step (2,) float32 in [-1, 1], in units of 5 pixels. State and options
    of `reset` are those of every `MujocoTaskWorld`; a goal is reached when it is nearer than 16 pixels.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted for a figure.
    """

    layout = SWM
    horizon = 100
    task_mix: Mapping[str, float] = {"other room": 0.6, "same room": 0.4}


class TwoRoomRandomWall(_Published):
    """The two rooms of eb_jepa, whose wall and door are elsewhere in every episode.

    Lengths are pixels of its 65 x 65 pictures, from the middle of the picture, y up. Observation: the
    picture, (64, 64, 3) uint8. Action: a step (2,) float32 in [-1, 1], in units of 2.45 pixels. Where the wall
    and the door are is part of the state; `state_at(x, y, wall, door)` makes one. State and options of
    `reset` are those of every `MujocoTaskWorld`; a goal is reached when it is nearer than 4.5 pixels, and
    lies always in the other room.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted for a figure.
    """

    layout = EB_JEPA
    horizon = 100
    task_mix: Mapping[str, float] = {"other room": 1.0}
