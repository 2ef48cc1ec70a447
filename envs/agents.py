"""What plays tasks: the contract of a policy, and the policies that every evaluation is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.task_making import idle_action
from envs.task_suite import TaskSuite
from envs.world import make_world


@dataclass(frozen=True)
class Goals:
    """What a policy is to reach: goal pictures (E, C, H, W) uint8.

    Privileged policies are also given the goal states (E, S) and the ids of the E tasks.
    """

    frames: np.ndarray
    states: np.ndarray | None
    tasks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Observation:
    """What a policy sees: pictures (E, C, H, W) uint8; states (E, S) for privileged policies only."""

    frames: np.ndarray
    states: np.ndarray | None


class Policy(Protocol):
    """Acts in E environments at once.

    Attributes:
        privileged: whether it is shown states; a policy that is to work from pixels must not be.
    """

    privileged: bool

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        """Begin E episodes; `seeds` (E,) int64 are all the randomness that each may use."""

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        """Actions (E, K, A) float32 inside the bounds, executed in order; rows not in `active` (E,) are ignored."""


class NoOp:
    """Always the action zero, or what is nearest to it inside the bounds. The floor of every evaluation."""

    privileged = False

    def __init__(self, env_id: str) -> None:
        self._action = idle_action(make_world(env_id))

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self._actions = np.tile(self._action, (len(seeds), 1, 1))

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return self._actions


class RandomPolicy:
    """Uniform random actions; each task's depend on its own seed only."""

    privileged = False

    def __init__(self, env_id: str) -> None:
        self._space = make_world(env_id).action_space
        if not (np.isfinite(self._space.low).all() and np.isfinite(self._space.high).all()):
            raise ValueError(f"RandomPolicy needs finite action bounds, {env_id!r} has {self._space}")

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        rows = [rng.uniform(self._space.low, self._space.high) for rng in self._rngs]
        return np.asarray(rows, dtype=np.float32)[:, None]


class Scripted:
    """The world's hand-written policy, which sees states: what is possible on the suite."""

    privileged = True

    def __init__(self, env_id: str) -> None:
        self._world = make_world(env_id)
        if not getattr(self._world, "has_script", True):
            raise ValueError(f"{env_id} has no hand-written policy; leave agent=scripted out")

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        assert goals.states is not None, "the evaluator shows states to privileged policies"
        self._goals = goals.states

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        assert observation.states is not None, "the evaluator shows states to privileged policies"
        pairs = zip(observation.states, self._goals, strict=True)
        return np.stack([self._world.scripted_action(state, goal) for state, goal in pairs])[:, None]


class Replay:
    """The recorded solution of each task: reaches every goal by construction, and so proves the suite.

    After the last recorded action it does nothing.
    """

    privileged = True

    def __init__(self, suite: TaskSuite) -> None:
        self._solutions = {task.id: task.solution for task in suite}
        self._idle = idle_action(make_world(suite.env_id))

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        assert goals.tasks is not None, "the evaluator tells privileged policies which tasks they play"
        self._left = [iter(self._solutions[task]) for task in goals.tasks]

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return np.stack([next(actions, self._idle) for actions in self._left])[:, None]
