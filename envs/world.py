"""The contract of a world for tasks, collection and evaluation, and how a world is made from its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat, cast

import gymnasium as gym
import numpy as np

NAMESPACE = "worldmodel"


class TaskWorld(Protocol):
    """A `gymnasium.Env` whose observation is the picture (H, W, C) uint8 and whose state can be read and set.

    A state is one flat (S,) float64 vector that determines everything the world does next; in MuJoCo, the
    full integration state. `reset(options={"state": ..., "goal": ...})` starts from a state and sets a
    goal, both optional; with a goal, `step` returns reward 1 and terminates on success.

    Attributes:
        horizon: environment steps that a task may take.
        task_mix: label of each kind of task -> its share of a suite.
    """

    observation_space: Any
    action_space: Any
    horizon: int
    task_mix: Mapping[str, float]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...

    def get_state(self) -> np.ndarray:
        """The state (S,) float64."""

    def set_state(self, state: np.ndarray) -> None:
        """Continue from `state` (S,)."""

    def render_state(self, state: np.ndarray) -> np.ndarray:
        """The picture (H, W, C) uint8 of `state` (S,); disturbs neither simulation nor random generator."""

    def success(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether `state` (S,) reaches the goal state (S,)."""

    def distance(self, state: np.ndarray, goal: np.ndarray) -> float:
        """What is left to go from `state` (S,) to `goal` (S,), in world units."""

    def distances(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """`distance` for (..., S) and (..., S), broadcast against each other, to (...) float64."""

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A start state (S,), a goal state (S,) and the label of the kind of task."""

    def scripted_action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (A,) float32 of a hand-written policy, which certifies that tasks can be done."""


_METHODS = (
    "get_state",
    "set_state",
    "render_state",
    "success",
    "distance",
    "distances",
    "sample_task",
    "scripted_action",
)


def make_world(env_id: str) -> TaskWorld:
    """Make the world with this gymnasium id, without wrappers.

    A world from elsewhere is named with the module that registers it, `"my_package.worlds:My-v0"`; worker
    processes import that module too. A MuJoCo environment of gymnasium that is no world, such as
    `"Pusher-v5"`, becomes one by `envs.gym_world.gym_world`.

    Raises:
        ValueError: the id is unknown, or the environment lacks a part of the contract and is not simulated by
            MuJoCo; or it would be drawn by OpenGL, and there is none (`envs.rendering.NoOpenGL`).
    """
    try:
        env = gym.make(env_id, disable_env_checker=True).unwrapped
    except (gym.error.Error, ModuleNotFoundError) as error:
        ours = (spec for name, spec in gym.registry.items() if name.startswith(NAMESPACE + "/"))
        choices = sorted(spec.id for spec in ours if "look" not in spec.kwargs)
        raise ValueError(
            f"cannot make the environment {env_id!r} ({str(error).splitlines()[0]}); the choices are "
            f"{', '.join(choices)}, some of these in another look (docs/worlds.md), a MuJoCo environment of "
            "gymnasium, or 'module:Name-v0' for an environment that another module registers"
        ) from error
    except Exception as error:
        if os.environ.get("MUJOCO_GL") and "mujoco" not in sys.modules:  # importing it failed
            raise ValueError(
                f"`import mujoco` fails with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}); unset MUJOCO_GL: what "
                "works is found without it"
            ) from error
        if isinstance(error, AssertionError):  # of gymnasium-robotics, where it does not fit this MuJoCo
            raise ValueError(
                f"the environment {env_id!r} fails while it is made (AssertionError {error}); another version of "
                "it or of MuJoCo may not"
            ) from error
        raise
    missing = [name for name in (*_METHODS, "horizon", "task_mix") if not hasattr(env, name)]
    if missing and not any(hasattr(env, name) for name in _METHODS if name != "set_state"):
        from envs.gym_trial import is_mujoco  # loads MuJoCo, which other worlds may not need

        if is_mujoco(env):
            from envs.gym_world import gym_world

            return cast(TaskWorld, gym_world(env))
    if missing:
        raise ValueError(
            f"the environment {env_id!r} has no {', '.join(missing)}, which only a plain MuJoCo environment may "
            "lack; see envs.world.TaskWorld and docs/extending.md"
        )
    if not isinstance(env.action_space, gym.spaces.Box) or len(env.action_space.shape) != 1:
        raise ValueError(
            f"the action space of {env_id!r} is {env.action_space}; a Box of shape (A,) is needed"
        )
    return cast(TaskWorld, env)


def describe(env_id: str) -> dict[str, Any]:
    """What a dataset should say about its environment; JSON values only.

    Keys: `env_id`, `action_low` and `action_high` (A numbers each), `frame_shape` ([C, H, W]) and `fps`
    (environment steps per second, null if the environment does not say).

    Raises:
        ValueError: see `make_world`.
    """
    world = make_world(env_id)
    try:
        height, width, channels = world.observation_space.shape
        fps = getattr(world, "metadata", {}).get("render_fps")
        return {
            "env_id": env_id,
            "action_low": world.action_space.low.tolist(),
            "action_high": world.action_space.high.tolist(),
            "frame_shape": [channels, height, width],
            "fps": None if fps is None else float(fps),
        }
    finally:
        world.close()


def channels_first(pictures: np.ndarray) -> np.ndarray:
    """(..., H, W, C) of gymnasium to (..., C, H, W) of everything else, contiguous."""
    return np.ascontiguousarray(np.moveaxis(pictures, -1, -3))
