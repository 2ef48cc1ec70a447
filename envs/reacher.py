"""Reacher: a two-link arm in the plane, which takes the pose that a picture shows.

After dm_control's reacher (arXiv:1801.00690): its lengths, torques and elbow limits, and the task that latent
planners use (DINO-WM, arXiv:2411.04983; LeWM, arXiv:2603.19312): the goal is a pose, not a place of the
fingertip, and it is given as a picture. The arm is driven by torques and has inertia, so a single picture
does not tell where it is going: a model that sees one frame at a time does not know the velocity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from envs.draw import FLOOR, WALL, Color, TopDownCanvas, paint_capsule
from envs.mujoco_world import MujocoTaskWorld

LINK = 0.12  # length of either link in metres
ELBOW_LIMIT = math.radians(160.0)
VIEW_HALF = 0.28  # half the picture's width in metres; at 64 pixels the arm ends 1.8 pixels before the edge

SUBSTEPS = 4
TIMESTEP = 0.01
TOLERANCE = 0.1
PUBLISHED_TOLERANCE = 0.05  # of LeWM's and stable-worldmodel's reacher
MIN_TASK_DISTANCE = 0.75
FAR = 2.25  # tasks at least as far as this are labelled "far"

UPPER_ARM: Color = (36, 92, 168)
FOREARM: Color = (236, 140, 28)
JOINT: Color = WALL
FINGERTIP: Color = (222, 32, 38)

# The shoulder turns freely, the elbow stops before the arm folds onto itself, nothing touches anything.
_XML = f"""
<mujoco model="reacher">
  <option timestep="{TIMESTEP}" integrator="implicitfast" gravity="0 0 0"><flag contact="disable"/></option>
  <size memory="64K"/>
  <default>
    <joint type="hinge" axis="0 0 1" damping="0.01"/>
    <motor gear="0.05" ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
    <body name="upper_arm">
      <joint name="shoulder"/>
      <geom type="capsule" fromto="0 0 0 {LINK} 0 0" size="0.01"/>
      <body name="forearm" pos="{LINK} 0 0">
        <joint name="elbow" limited="true" range="-160 160"/>
        <geom type="capsule" fromto="0 0 0 {LINK} 0 0" size="0.01"/>
        <geom name="fingertip" type="sphere" pos="{LINK} 0 0" size="0.01"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="shoulder" joint="shoulder"/>
    <motor name="elbow" joint="elbow"/>
  </actuator>
</mujoco>
"""


class Reacher(MujocoTaskWorld):
    """Turn the two joints of an arm until it looks like a picture.

    Observation: the picture, (64, 64, 3) uint8. Action: torques (2,) float32 of shoulder and elbow, in units
    of the greatest one, 0.05 Nm, held for 0.04 s. At full torque a joint reaches about 5 rad/s, 0.2 rad per
    step; the shoulder takes several steps to get there and to stop. State and options of `reset` are those
    of every `MujocoTaskWorld`.

    The shoulder has no limits: its angle counts on through full turns, and angles are compared modulo 2 pi,
    since their pictures are equal. The elbow stays within 160 degrees to either side, and is compared
    as it is. Poses and pictures correspond one to one.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted for a figure.
        tolerance: a goal is reached when each joint is less than this many radians away from it, at any
            velocity. The default moves the fingertip by more than a pixel at 64 x 64; results that are
            published for pictures of 224 pixels use `PUBLISHED_TOLERANCE`.

    Raises:
        ValueError: the tolerance is not positive.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium declares it on instances
        "render_modes": ["rgb_array"],
        "render_fps": 1.0 / (SUBSTEPS * TIMESTEP),
    }
    horizon = 50
    substeps = SUBSTEPS
    task_mix: Mapping[str, float] = {"far": 0.6, "near": 0.4}

    def __init__(self, render_mode: str | None = None, size: int = 64, tolerance: float = TOLERANCE) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance of Reacher is a positive angle in radians, not {tolerance}")
        self.tolerance = tolerance
        super().__init__(_XML, TopDownCanvas(size, VIEW_HALF, FLOOR), render_mode)
        self._scale = self._canvas.scale
        self._base = np.empty((size, size, 3))
        self._base[:] = FLOOR
        paint_capsule(self._base, (size / 2, size / 2), (size / 2, size / 2), 0.034 * self._scale, JOINT)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether each joint is less than `tolerance` from the goal's; the velocity does not matter."""
        return bool((np.abs(self._gap(state, goal)) < self.tolerance).all())

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Euclidean distance in rad of the two joint angles, the shoulder's taken the shorter way round.

        (..., S) and (..., S), broadcast together, to (...) float64.
        """
        return np.sqrt(np.square(self._gap(states, goals)).sum(axis=-1))

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start and a goal, at least 0.75 rad apart and both at rest; from 2.25 rad on, the label is "far"."""
        while True:
            start, goal = (self.state_at(*self._free_position(rng)) for _ in range(2))
            distance = self.distance(start, goal)
            if distance >= MIN_TASK_DISTANCE:
                return start, goal, "far" if distance >= FAR else "near"

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) of the hand-written policy: proportional-derivative control of each joint."""
        velocity = np.asarray(state)[self._qvel]
        torque = 2.0 * self._gap(goal, state) - np.array([0.25, 0.05]) * velocity
        return np.clip(torque, -1.0, 1.0).astype(np.float32)

    def _gap(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Joint angles (..., 2) of states minus those of goals; the shoulder's is in [-pi, pi)."""
        gap = np.asarray(states)[..., self._qpos] - np.asarray(goals)[..., self._qpos]
        gap[..., 0] = (gap[..., 0] + np.pi) % (2 * np.pi) - np.pi
        return gap

    @property
    def background(self) -> np.ndarray:
        """The picture without the arm, (H, W, 3) float64."""
        return self._base.copy()

    def paint(self, picture: np.ndarray, state: np.ndarray) -> None:
        """Paint the arm of a state (S,) over a picture (H, W, 3) of floats, in place."""
        self._paint(picture, np.asarray(state)[self._qpos])

    def _paint(self, picture: np.ndarray, qpos: np.ndarray) -> None:
        middle, link = self._canvas.size / 2, LINK * self._scale
        shoulder, elbow = float(qpos[0]), float(qpos[0] + qpos[1])
        a = middle, middle
        b = a[0] + link * math.cos(shoulder), a[1] - link * math.sin(shoulder)
        c = b[0] + link * math.cos(elbow), b[1] - link * math.sin(elbow)
        paint_capsule(picture, a, b, 0.024 * self._scale, UPPER_ARM)
        paint_capsule(picture, b, c, 0.019 * self._scale, FOREARM)
        paint_capsule(picture, b, b, 0.014 * self._scale, JOINT)
        paint_capsule(picture, c, c, 0.024 * self._scale, FINGERTIP)

    def _draw(self, qpos: np.ndarray) -> np.ndarray:
        picture = self._base.copy()
        self._paint(picture, qpos)
        return (picture + 0.5).astype(np.uint8)

    def _free_position(self, rng: np.random.Generator) -> np.ndarray:
        """Uniform joint angles (2,), the elbow's clear of its limits."""
        return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(-0.95, 0.95) * ELBOW_LIMIT])
