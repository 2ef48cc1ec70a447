"""Play the tasks of a suite with a policy and say which goals were reached.

Every task counts once, finished tasks freeze, and a task's outcome does not depend on how many are played
at once: a policy gets a seed per task, drawn from the task's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.agents import Goals, NoOp, Observation, Policy, RandomPolicy, Replay, Scripted
from envs.seeding import keyed_rng
from envs.statistics import wilson
from envs.task import Task, TaskEnv, TaskSuite
from envs.world import channels_first, make_world

__all__ = [
    "HOLD", "Goals", "NoOp", "Observation", "Policy", "RandomPolicy", "Replay", "Scripted", "TaskResult",
    "evaluate", "task_seed", "wilson",
]  # fmt: skip

#: Environment steps in a row at the goal that count as holding it.
HOLD = 10


@dataclass(frozen=True, eq=False)
class TaskResult:
    """How one task went.

    Attributes:
        id, label: the task's.
        success: whether the goal was ever reached within the horizon.
        final_success: whether it was reached at the end of the episode; the same if finished tasks freeze.
        held: whether it was reached at `HOLD` consecutive steps; None if finished tasks freeze.
        steps: environment steps until the first success, or the horizon.
        start_distance, final_distance: way to the goal in world units, at the start and at the end.
        travelled: way in world units until the first success, or the horizon: the sum of the world's distances
            between the states before and after each step.
        efficiency: how straight the way was: what the distance to the goal fell by until the first success, as a
            share of `travelled`, at most 1; None without success.
        seconds_per_decision: mean time of one call of `act`, divided by the tasks then active.
        frames: pictures (T + 1, C, H, W) uint8 of the episode's T steps, where they were asked for.
        goal_frame: picture (C, H, W) uint8 of the goal, where frames were asked for.
    """

    id: int
    label: str
    success: bool
    final_success: bool
    held: bool | None
    steps: int
    start_distance: float
    final_distance: float
    travelled: float
    efficiency: float | None
    seconds_per_decision: float
    frames: np.ndarray | None = None
    goal_frame: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        return {name: value for name, value in vars(self).items() if name not in ("frames", "goal_frame")}


def evaluate(
    suite: TaskSuite,
    policy: Policy,
    num_envs: int,
    on_result: Callable[[TaskResult], None] | None = None,
    record: Collection[int] = (),
    seed: int = 0,
    done: Collection[int] = (),
    after_success: str = "freeze",
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
        after_success: "freeze" finished tasks, or "continue" each to its horizon, which shows whether a policy
            stays at the goal.

    Raises:
        ValueError: num_envs < 1, an unknown `after_success`, or the policy returned actions of a wrong shape,
            not finite or out of bounds.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is at least 1, not {num_envs}")
    tasks = [task for task in suite if task.id not in set(done)]
    envs = [TaskEnv(make_world(suite.env_id), suite, after_success) for _ in range(min(num_envs, len(tasks)))]
    results = []
    try:
        for first in range(0, len(tasks), num_envs):
            group = tasks[first : first + num_envs]
            for result in _play(envs, group, policy, set(record), seed, after_success == "freeze"):
                results.append(result)
                if on_result is not None:
                    on_result(result)
    finally:
        for env in envs:
            env.close()
    return results


def task_seed(seed: int, task: int) -> int:
    """What a policy is seeded with for a task, in an evaluation with this seed."""
    return int(keyed_rng("plan", seed, task).integers(2**63))


class _Episode:
    """What is kept of one task while it is played."""

    def __init__(self, env: TaskEnv, task: Task, first: np.ndarray, record: bool) -> None:
        self.env, self.task = env, task
        self.film = [first.copy()] if record else []
        self.states = [env.world.get_state()]
        self.at_goal: list[bool] = []
        self.seconds: list[float] = []

    def step(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """The next picture (C, H, W), and whether the task is over."""
        observation, _, terminated, truncated, info = self.env.step(action)
        frame = channels_first(observation)
        if self.film:
            self.film.append(frame.copy())
        self.states.append(self.env.world.get_state())
        self.at_goal.append(info["success"])
        return frame, terminated or truncated

    def result(self, goal_frame: np.ndarray, frozen: bool) -> TaskResult:
        world, task, states = self.env.world, self.task, np.stack(self.states)
        success = any(self.at_goal)
        steps = self.at_goal.index(True) + 1 if success else len(self.at_goal)
        travelled = float(world.distances(states[:steps], states[1 : steps + 1]).sum())
        start, reached = (world.distance(states[i], task.goal) for i in (0, steps))
        straight = min((start - reached) / travelled, 1.0) if travelled > 0 else 1.0
        return TaskResult(
            id=task.id,
            label=task.label,
            success=success,
            final_success=self.at_goal[-1],
            held=None if frozen else longest_run(self.at_goal) >= HOLD,
            steps=steps,
            start_distance=start,
            final_distance=world.distance(states[-1], task.goal),
            travelled=travelled,
            efficiency=straight if success else None,
            seconds_per_decision=float(np.mean(self.seconds)),
            frames=np.stack(self.film) if self.film else None,
            goal_frame=goal_frame if self.film else None,
        )


def longest_run(flags: Sequence[bool]) -> int:
    """The greatest number of consecutive True."""
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _play(
    envs: Sequence[TaskEnv], tasks: Sequence[Task], policy: Policy, record: set[int], seed: int, frozen: bool
) -> list[TaskResult]:
    """Play one group of tasks to the end."""
    pairs = list(zip(envs, tasks, strict=False))
    frames = channels_first(np.stack([env.reset(options={"task": task.id})[0] for env, task in pairs]))
    goal_frames = channels_first(np.stack([env.goal_frame(task.id) for env, task in pairs]))
    seeds = np.array([task_seed(seed, task.id) for task in tasks], dtype=np.int64)
    episodes = [
        _Episode(env, task, frame, task.id in record)
        for (env, task), frame in zip(pairs, frames, strict=True)
    ]
    active = np.ones(len(tasks), dtype=bool)

    # The policy gets copies, so that it can neither keep nor change what belongs to the evaluator.
    goals = Goals(goal_frames.copy(), None)
    if policy.privileged:
        states = np.stack([task.goal for task in tasks])
        goals = Goals(goal_frames.copy(), states, tuple(task.id for task in tasks))
    policy.reset(goals, seeds)
    while active.any():
        observed = np.stack([e.states[-1] for e in episodes]) if policy.privileged else None
        began = time.perf_counter()
        actions = policy.act(Observation(frames.copy(), observed), active.copy())
        share = (time.perf_counter() - began) / active.sum()
        _check_actions(actions, active, envs[0], policy)
        for row in np.flatnonzero(active).tolist():
            episodes[row].seconds.append(share)
            for action in actions[row]:
                frames[row], over = episodes[row].step(action)
                if over:
                    active[row] = False
                    break
    return [e.result(goal_frame, frozen) for e, goal_frame in zip(episodes, goal_frames, strict=True)]


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
