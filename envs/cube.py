"""Cube: a robot arm moves a cube on a table to where a picture shows it; OGBench's cube-single (arXiv:2410.20092).

The arm, its controller and the scripted policy are OGBench's, an optional package: `pip install
'worldmodel[cube]'`. A camera draws it, so it needs OpenGL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from envs.gym_trial import Trial, put_state
from envs.gym_world import SteppedGymWorld
from envs.rendering import find_gl

TOLERANCE = 0.04  # metres, OGBench's
HORIZON = 200
MIN_TASK_DISTANCE = 0.1
FAR = 0.25  # tasks at least as far as this are labelled "far"
REST_HEIGHT = 0.02  # of the cube's middle, half its edge


class Cube(SteppedGymWorld):
    """Move the cube to where it is in a picture.

    Observation: the picture of OGBench's pixel tasks, (64, 64, 3) uint8. Action: OGBench's, (5,) float32 in [-1, 1]:
    how the gripper moves along three axes, how it turns about the vertical one, and how it closes. State and options
    of `reset` are those of every world; the goal of a task differs from its start in the cube's place only, and its
    picture shows the arm where it is at the start. Only the cube counts.

    The controller reads positions that MuJoCo computes from a state; they are computed afresh before every step. In
    OGBench itself they are one simulation step of 2 ms old, so its trajectories are not the same bit for bit.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels.

    Raises:
        ValueError: OGBench is not installed.
        NoOpenGL: this machine cannot draw.
    """

    task_mix: Mapping[str, float] = {"far": 0.5, "near": 0.5}
    has_script = True

    def __init__(self, render_mode: str | None = None, size: int = 64) -> None:
        find_gl()
        env = _make_ogbench()
        picture = {"size": size, "camera": "front_pixels"}
        super().__init__(env, Trial(env, "Cube"), "Cube", picture, 1.0, HORIZON)
        address = int(self.model.joint("object_joint_0").qposadr[0])
        self._cube = slice(1 + address, 4 + address)  # of a state: entry 0 is the time
        self._pose = slice(1 + address, 8 + address)
        velocity = 1 + self.model.nq + int(self.model.joint("object_joint_0").dofadr[0])
        self._motion = slice(velocity, velocity + 6)

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the cube's middle is within 4 cm of the goal's, wherever the arm is."""
        return self.distance(state, goal) <= TOLERANCE

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Distance of the cube's middle from the goal's in metres; (..., S) and (..., S) to (...) float64."""
        gap = np.asarray(states)[..., self._cube] - np.asarray(goals)[..., self._cube]
        return np.sqrt(np.square(gap).sum(axis=-1))

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A random start, and the same with the cube at least 10 cm away; from 25 cm on, the label is "far"."""
        env: Any = self._env
        before = self.get_state()
        start = self._first_state(int(rng.integers(2**31)))
        self.set_state(before)
        low, high = np.sort(np.asarray(env._target_sampling_bounds), axis=0)
        while True:
            goal, turn = start.copy(), rng.uniform(0, 2 * np.pi)
            goal[self._pose] = [
                *rng.uniform(low, high),
                REST_HEIGHT,
                np.cos(turn / 2),
                0,
                0,
                np.sin(turn / 2),
            ]
            goal[self._motion] = 0
            distance = self.distance(start, goal)
            if distance >= MIN_TASK_DISTANCE:
                return start, goal, "far" if distance >= FAR else "near"

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (5,) float32 of OGBench's scripted policy: above the cube, down, grasp, lift, carry, lower."""
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        env: Any = self._env
        goal = self._checked(goal, "goal")
        before = self.get_state()
        put_state(env, self._checked(state, "state"))
        mujoco.mj_rnePostConstraint(
            env.model, env.data
        )  # contact forces, by which the policy knows its grasp
        seen = env.compute_ob_info()
        put_state(env, before)
        seen["privileged/target_block_pos"] = goal[self._cube]
        w, _, _, z = goal[self._pose][3:]
        seen["privileged/target_block_yaw"] = np.array([2 * np.arctan2(z, w)])
        policy = CubeMarkovOracle(env=env)
        policy._step, policy._max_step = 0, HORIZON
        policy._final_pos, policy._final_yaw = (
            np.array([0.425, 0.0, 0.25]),
            0.0,
        )  # where it goes when it is done
        return np.asarray(policy.select_action(None, seen), dtype=np.float32)


def _make_ogbench() -> Any:
    """OGBench's environment, made for pixels, which does not draw them: a camera of ours does."""
    try:
        from ogbench.manipspace.envs.cube_env import CubeEnv
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the world Cube needs {error.name}, which is not installed: pip install 'worldmodel[cube]'"
        ) from error

    class Unseen(CubeEnv):  # type: ignore[misc]  # of a package without types
        def get_pixel_observation(self) -> np.ndarray:
            return np.zeros((1, 1, 3), np.uint8)

    settings = {"env_type": "single", "ob_type": "pixels", "mode": "data_collection", "visualize_info": False}
    return Unseen(**settings, width=64, height=64)
