"""How far the joints of a MuJoCo model are from those of another state, each in units of its tolerance."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

ANGLE = 0.1  # tolerance of angles, in rad
LENGTH = 0.02  # tolerance of lengths, as a share of the model's extent (MuJoCo's `stat.extent`)


class JointGaps:
    """Differences of joint positions, in tolerances.

    - The angle of a hinge is tolerated within 0.1 rad. Without limits, it is taken the shorter way round.
    - The place of a slide or of a free body is tolerated within 2% of the model's extent, along each axis.
    - The orientation of a ball joint or a free body counts as one angle: that of the turn between both.

    `rad * norm(gaps)` is a distance in rad, in which a length counts as the angle that is as many tolerances.

    Args:
        model: a MuJoCo model; states are its integration states (S,).
        factor: on all tolerances.

    Raises:
        ValueError: the factor is not positive, or the model has no joints.
    """

    def __init__(self, model: Any, factor: float = 1.0) -> None:
        if not factor > 0:
            raise ValueError(f"tolerance is a positive factor, not {factor}")
        if model.njnt == 0:
            raise ValueError("the model has no joints, so it has no goals either; see docs/extending.md")
        self.rad = factor * ANGLE
        length = factor * LENGTH * model.stat.extent
        plain: list[int] = []
        units: list[float] = []
        turns: list[bool] = []
        quaternions: list[int] = []
        for joint in range(model.njnt):
            kind, at = int(model.jnt_type[joint]), 1 + int(model.jnt_qposadr[joint])  # entry 0 is the time
            if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
                free = kind == mujoco.mjtJoint.mjJNT_FREE
                plain += range(at, at + 3) if free else []
                units += [length] * 3 if free else []
                turns += [False] * 3 if free else []
                quaternions.append(at + 3 if free else at)
            else:
                hinge = kind == mujoco.mjtJoint.mjJNT_HINGE
                plain.append(at)
                units.append(self.rad if hinge else length)
                turns.append(hinge and not model.jnt_limited[joint])
        self._plain, self._units = np.array(plain, dtype=int), np.array(units)
        self._turns = np.flatnonzero(turns)
        self._quaternions = np.array(quaternions, dtype=int)[:, None] + np.arange(4)

    def __call__(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Gaps (..., n) of states (..., S) and goals (..., S), broadcast together; 1 is the tolerance."""
        states, goals = np.asarray(states), np.asarray(goals)
        plain = states[..., self._plain] - goals[..., self._plain]
        plain[..., self._turns] = (plain[..., self._turns] + np.pi) % (2 * np.pi) - np.pi
        plain = plain / self._units
        if not len(self._quaternions):
            return plain
        here, there = states[..., self._quaternions], goals[..., self._quaternions]
        return np.concatenate([plain, _angle_between(here, there) / self.rad], axis=-1)


def _angle_between(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Angle in rad, 0 to pi, of the turn between orientations (..., 4), quaternions of any length but 0."""
    here, there = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in (here, there))
    # Of both quaternions of an orientation, q and -q, the nearer one; 2 arcsin is exact where arccos is not.
    chord = np.minimum(np.linalg.norm(here - there, axis=-1), np.linalg.norm(here + there, axis=-1))
    return 4 * np.arcsin(np.minimum(chord / 2, 1.0))
