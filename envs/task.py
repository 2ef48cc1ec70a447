"""Making suites of held-out tasks, and playing them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from envs.seeding import keyed_rng
from envs.task_making import MAX_DRAWS, Drawn, ahead_task, scripted_task
from envs.task_suite import Task, TaskSuite
from envs.world import TaskWorld, make_world

__all__ = ["AFTER_SUCCESS", "PROTOCOLS", "Task", "TaskEnv", "TaskSuite", "TaskWorld", "make_suite"]

#: How tasks are made, see `make_suite`; and what follows a success, see `TaskEnv`.
PROTOCOLS = ("scripted", "ahead")
AFTER_SUCCESS = ("freeze", "continue")


def make_suite(
    env_id: str,
    count: int,
    seed: int,
    name: str | None = None,
    protocol: str = "scripted",
    *,
    ahead: int = 25,
    budget: int | None = None,
    policy: str = "held_direction",
    label: str = "",
    min_distance: float = 0.0,
) -> TaskSuite:
    """Draw `count` tasks from the random stream "tasks", which collection cannot use.

    Every task comes with recorded actions that reach its goal within the horizon, made by no planner. None is
    solved at its start or by doing nothing. Every prefix of a suite is the suite of fewer tasks.

    Args:
        env_id: see `envs.world.make_world`.
        count: tasks.
        seed: of the stream; task i depends on (seed, i), and on the labels before it.
        name: what reports call the suite.
        protocol: "scripted": tasks of the world's own, solved by its hand-written policy; labels follow the
            world's `task_mix` in every prefix, so that the first tasks are as hard as all of them. "ahead", as in
            most publications on latent planning: start and goal are two moments of an exploring episode, `ahead`
            environment steps apart; see `envs.task_making.ahead_task` for its labels, "easy" and "hard".
        ahead: protocol "ahead" only.
        budget: the suite's horizon in environment steps; by default the world's.
        policy: protocol "ahead" only: who explores, see `envs.policies`.
        label: protocol "scripted" only: the one kind of task that is wanted, instead of the world's mix.
        min_distance: protocol "scripted" only: goals are at least so far away, by the world's own distance.

    Raises:
        ValueError: unknown environment, protocol, policy or label, count < 1, a budget that is too small, or no
            certified task found in 1000 draws.
    """
    if count < 1:
        raise ValueError(f"a task suite has at least 1 task, not {count}")
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"unknown protocol {protocol!r} of a task suite; the choices are {', '.join(PROTOCOLS)}"
        )
    world = make_world(env_id)
    horizon = budget or world.horizon
    if protocol == "ahead" and not 1 <= ahead <= horizon:
        raise ValueError(f"a goal {ahead} steps ahead does not fit a budget of {horizon} steps")
    if label and label not in world.task_mix:
        raise ValueError(f"{env_id} has no tasks {label!r}; the choices are {', '.join(world.task_mix)}")
    try:
        tasks: list[Task] = []
        for task_id in range(count):
            rng = keyed_rng("tasks", seed, task_id)
            if protocol == "ahead":
                wanted, drawn = "", ahead_task(world, rng, policy, ahead, horizon)
            else:
                wanted = label or _most_wanted(world, tasks)
                drawn = scripted_task(world, rng, wanted, horizon, min_distance)
            tasks.append(_certified(drawn, task_id, wanted))
        default_name = f"{env_id.split('/')[-1]}-{count}-seed{seed}"
        return TaskSuite(name or default_name, env_id, horizon, tuple(tasks))
    finally:
        world.close()


def _most_wanted(world: TaskWorld, tasks: list[Task]) -> str:
    """The kind of task that is furthest behind its share is next."""
    made = [task.label for task in tasks]
    behind = {kind: share * (len(tasks) + 1) - made.count(kind) for kind, share in world.task_mix.items()}
    return max(behind, key=lambda kind: behind[kind])


def _certified(drawn: Drawn | None, task_id: int, wanted: str) -> Task:
    if drawn is None:
        kind = f" ({wanted})" if wanted else ""
        raise ValueError(
            f"no certified task {task_id}{kind} in {MAX_DRAWS} draws; check sample_task and scripted_action, or "
            "the exploring policy"
        )
    return Task(task_id, drawn.start, drawn.goal, drawn.label, drawn.solution)


class TaskEnv(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """A world that plays the tasks of a suite.

    `reset(options={"task": i})` and `reset(seed=i)` both start the task with id i; a plain `reset()` starts
    the one after the last. The episode terminates on success and is truncated at the suite's horizon. After
    that it is frozen: `step` ignores its action and repeats the last observation with reward 0. `info` has
    "task", "success" (now) and "steps".

    Args:
        env: the world.
        suite: its tasks.
        after_success: "freeze", or "continue" to go on to the horizon, whether the goal is reached or not.

    Raises:
        ValueError: the suite belongs to another environment, or its states have another length.
    """

    def __init__(
        self,
        env: TaskWorld | gym.Env[np.ndarray, np.ndarray],
        suite: TaskSuite,
        after_success: str = "freeze",
    ) -> None:
        if after_success not in AFTER_SUCCESS:
            raise ValueError(
                f"after_success={after_success!r} is unknown; choose {' or '.join(AFTER_SUCCESS)}"
            )
        super().__init__(env)  # type: ignore[arg-type]
        self.world: TaskWorld = env.unwrapped  # type: ignore[union-attr, assignment]
        self.suite = suite
        if self.spec is not None and self.spec.id != suite.env_id.split(":")[-1]:
            raise ValueError(
                f"the task suite {suite.name!r} belongs to {suite.env_id}, the environment is {self.spec.id}"
            )
        size = self.world.get_state().size
        if wrong := [task.id for task in suite if task.start.shape != (size,) or task.goal.shape != (size,)]:
            raise ValueError(
                f"task {wrong[0]} of {suite.name!r} has states of another length than the {size} numbers of "
                f"{suite.env_id} with this MuJoCo version; make the suite anew"
            )
        self._freeze = after_success == "freeze"
        self._next = 0
        self.task = suite.tasks[0]
        self.steps = 0
        self._end: tuple[np.ndarray, float, bool, bool, dict[str, Any]] | None = None

    def goal_frame(self, task_id: int) -> np.ndarray:
        """The picture of a task's goal, (H, W, C) uint8."""
        return self.world.render_state(self.suite[task_id].goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if unknown := set(options or {}) - {"task"}:
            raise ValueError(f"TaskEnv.reset has the option 'task', not {sorted(unknown)}")
        task_id = (options or {}).get("task", seed)
        self.task = self.suite.tasks[self._next % len(self.suite)] if task_id is None else self.suite[task_id]
        self._next = self.suite.tasks.index(self.task) + 1
        self.steps, self._end = 0, None
        observation, info = self.env.reset(options={"state": self.task.start, "goal": self.task.goal})
        return observation, {**info, **self._info(success=False)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._end is not None:
            return self._end
        observation, reward, _, _, info = self.env.step(action)
        self.steps += 1
        success = self.world.success(self.world.get_state(), self.task.goal)
        terminated = success and self._freeze
        truncated = not terminated and self.steps >= self.suite.horizon
        info = {**info, **self._info(success)}
        if terminated or truncated:
            self._end = (observation, 0.0, terminated, truncated, info)
        return observation, float(reward), terminated, truncated, info

    def _info(self, success: bool) -> dict[str, Any]:
        return {"task": self.task.id, "success": success, "steps": self.steps}
