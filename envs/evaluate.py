"""Play the tasks of a suite with a policy and say which goals were reached.

Every task counts once, finished tasks freeze, and a task's outcome does not depend on how many are played
at once: a policy gets a seed per task, drawn from the task's id.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from envs.seeding import keyed_rng
from envs.task import Task, TaskEnv, TaskSuite
from envs.world import channels_first, make_world


@dataclass(frozen=True)
class Goals:
    """What a policy is to reach: goal pictures (E, C, H, W) uint8; goal states (E, S) for privileged policies only."""

    frames: np.ndarray
    states: np.ndarray | None


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


@dataclass(frozen=True, eq=False)
class TaskResult:
    """How one task went.

    Attributes:
        id, label: the task's.
        success: whether the goal was reached within the horizon.
        steps: environment steps until success, or the horizon.
        start_distance, final_distance: way to the goal in world units, at the start and at the end.
        seconds_per_decision: mean time of one call of `act`, divided by the tasks then active.
        frames: pictures (steps + 1, C, H, W) uint8 of the episode, where they were asked for.
        goal_frame: picture (C, H, W) uint8 of the goal, where frames were asked for.
    """

    id: int
    label: str
    success: bool
    steps: int
    start_distance: float
    final_distance: float
    seconds_per_decision: float
    frames: np.ndarray | None = None
    goal_frame: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        names = (
            "id",
            "label",
            "success",
            "steps",
            "start_distance",
            "final_distance",
            "seconds_per_decision",
        )
        return {name: getattr(self, name) for name in names}


def evaluate(
    suite: TaskSuite,
    policy: Policy,
    num_envs: int,
    on_result: Callable[[TaskResult], None] | None = None,
    record: Collection[int] = (),
    seed: int = 0,
    done: Collection[int] = (),
) -> list[TaskResult]:
    """Play the tasks of a suite, `num_envs` at a time, and return their results in the suite's order.

    Args:
        suite: the tasks.
        policy: see `Policy`. It gets states only if it is privileged.
        num_envs: tasks played at once. Outcomes do not depend on it.
        on_result: called with each result as soon as its group of tasks has finished.
        record: ids of the tasks whose pictures are kept.
        seed: of the policy; task i gets a seed drawn from (seed, i).
        done: ids of tasks to leave out, because an interrupted evaluation has their results.

    Raises:
        ValueError: num_envs < 1, or the policy returned actions of a wrong shape, not finite or out of
            bounds.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is at least 1, not {num_envs}")
    tasks = [task for task in suite if task.id not in set(done)]
    envs = [TaskEnv(make_world(suite.env_id), suite) for _ in range(min(num_envs, len(tasks)))]
    results = []
    try:
        for first in range(0, len(tasks), num_envs):
            for result in _play(envs, tasks[first : first + num_envs], policy, set(record), seed):
                results.append(result)
                if on_result is not None:
                    on_result(result)
    finally:
        for env in envs:
            env.close()
    return results


def _play(
    envs: Sequence[TaskEnv], tasks: Sequence[Task], policy: Policy, record: set[int], seed: int
) -> list[TaskResult]:
    """Play one group of tasks to the end."""
    envs = envs[: len(tasks)]
    pairs = list(zip(envs, tasks, strict=True))
    frames = channels_first(np.stack([env.reset(options={"task": task.id})[0] for env, task in pairs]))
    goal_frames = channels_first(np.stack([env.goal_frame(task.id) for env, task in pairs]))
    goal_states = np.stack([task.goal for task in tasks])
    seeds = np.array([keyed_rng("plan", seed, task.id).integers(2**63) for task in tasks], dtype=np.int64)
    films = [[frame.copy()] for frame in frames]
    seconds: list[list[float]] = [[] for _ in tasks]
    active = np.ones(len(tasks), dtype=bool)

    # The policy gets copies, so that it can neither keep nor change what belongs to the evaluator.
    policy.reset(Goals(goal_frames.copy(), goal_states.copy() if policy.privileged else None), seeds)
    while active.any():
        states = np.stack([env.world.get_state() for env in envs]) if policy.privileged else None
        began = time.perf_counter()
        actions = policy.act(Observation(frames.copy(), states), active.copy())
        share = (time.perf_counter() - began) / active.sum()
        _check_actions(actions, active, envs[0], policy)
        for row in np.flatnonzero(active).tolist():
            seconds[row].append(share)
            for action in actions[row]:
                frame, _, success, truncated, _ = envs[row].step(action)
                frames[row] = channels_first(frame)
                if tasks[row].id in record:
                    films[row].append(frames[row].copy())
                if success or truncated:
                    active[row] = False
                    break
    return [
        TaskResult(
            id=task.id,
            label=task.label,
            success=env.world.success(env.world.get_state(), task.goal),
            steps=env.steps,
            start_distance=env.world.distance(task.start, task.goal),
            final_distance=env.world.distance(env.world.get_state(), task.goal),
            seconds_per_decision=float(np.mean(times)),
            frames=np.stack(film) if task.id in record else None,
            goal_frame=goal_frame if task.id in record else None,
        )
        for env, task, times, film, goal_frame in zip(envs, tasks, seconds, films, goal_frames, strict=True)
    ]


def _check_actions(actions: np.ndarray, active: np.ndarray, env: TaskEnv, policy: Policy) -> None:
    """A planner that leaves the bounds would plan with other actions than the environment executes."""
    name, space = type(policy).__name__, env.world.action_space
    rows, width = len(active), space.shape[0]
    if actions.ndim != 3 or actions.shape[::2] != (rows, width) or actions.shape[1] < 1:
        raise ValueError(
            f"{name}.act returned actions of shape {actions.shape}; needed is (E, K, A) with E={rows}, K >= 1, "
            f"A={width}"
        )
    chosen = actions[active]
    if not ((chosen >= space.low) & (chosen <= space.high)).all():  # False for NaN too
        raise ValueError(
            f"{name}.act returned an action that is not finite or outside the bounds of {space}; clip it"
        )


class NoOp:
    """Always the action zero, or what is nearest to it inside the bounds. The floor of every evaluation."""

    privileged = False

    def __init__(self, env_id: str) -> None:
        space = make_world(env_id).action_space
        self._action = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)

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

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        assert goals.states is not None, "the evaluator shows states to privileged policies"
        self._goals = goals.states

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        assert observation.states is not None, "the evaluator shows states to privileged policies"
        pairs = zip(observation.states, self._goals, strict=True)
        return np.stack([self._world.scripted_action(state, goal) for state, goal in pairs])[:, None]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval (low, high) of a success rate (Wilson 1927); (0, 1) for n = 0.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} tasks are impossible")
    if n == 0:
        return 0.0, 1.0
    z, rate = 1.959963984540054, successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(center - half, 0.0), min(center + half, 1.0)
