"""Held-out tasks: a suite is a frozen file of (start, goal) pairs, each reached by recorded actions."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.seeding import keyed_rng
from envs.world import TaskWorld, make_world

__all__ = ["Task", "TaskEnv", "TaskSuite", "TaskWorld", "make_suite"]

_FORMAT = 1
_MAX_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Task:
    """One start and goal.

    Attributes:
        id: number of the task, unique in its suite.
        start: state (S,) float64.
        goal: state (S,) float64; its picture is the goal image.
        label: the kind of task.
        solution: actions (n, A) float32 that lead from start to success in n <= horizon steps.
    """

    id: int
    start: np.ndarray
    goal: np.ndarray
    label: str
    solution: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.start, self.goal, self.solution):
            array.setflags(write=False)

    def to_json(self) -> dict[str, Any]:
        # str() of a float32 is its shortest exact decimal: 0.35 rather than 0.3499999940395355.
        solution = [[float(str(value)) for value in action] for action in self.solution]
        return {
            "id": self.id,
            "label": self.label,
            "start": self.start.tolist(),
            "goal": self.goal.tolist(),
            "solution": solution,
        }


@dataclass(frozen=True, eq=False)
class TaskSuite:
    """A frozen list of tasks in one environment; equal content has an equal `hash`.

    Attributes:
        name: what reports call it.
        env_id: gymnasium id of the environment.
        horizon: environment steps that a task may take.
        tasks: the tasks, in the order in which they are evaluated.
    """

    name: str
    env_id: str
    horizon: int
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"the task suite {self.name!r} has no tasks")
        if len({task.id for task in self.tasks}) != len(self.tasks):
            raise ValueError(f"the task suite {self.name!r} uses a task id twice")

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, task_id: int) -> Task:
        """The task with this id.

        Raises:
            ValueError: the suite has no such task.
        """
        for task in self.tasks:
            if task.id == task_id:
                return task
        ids = sorted(task.id for task in self.tasks)
        raise ValueError(f"the suite {self.name!r} has no task {task_id}; its ids are {ids[0]} to {ids[-1]}")

    @property
    def hash(self) -> str:
        """SHA-256 of the content, as 64 hexadecimal digits."""
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the suite as JSON: floats keep every bit, and the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**self._content(), "sha256": self.hash}, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskSuite:
        """Read a suite that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a task suite, has another format version, or was changed since it was
                written.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"it has format {content['format']}, this version reads format {_FORMAT}")
            tasks = tuple(
                Task(
                    id=task["id"],
                    label=task["label"],
                    start=np.array(task["start"], dtype=np.float64),
                    goal=np.array(task["goal"], dtype=np.float64),
                    solution=np.array(task["solution"], dtype=np.float32),
                )
                for task in content["tasks"]
            )
            suite = cls(content["name"], content["env_id"], content["horizon"], tasks)
            if suite.hash != content["sha256"]:
                raise ValueError("its content does not match its sha256, so it was edited or damaged")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"the key {error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{path} is not a usable task suite: {reason}; make it anew with make_suite"
            ) from error
        return suite

    def verify(self) -> None:
        """Replay every recorded solution in the simulator.

        Raises:
            ValueError: a task is solved at its start, or its solution does not reach the goal within the
                horizon.
        """
        world = make_world(self.env_id)
        try:
            for task in self.tasks:
                where = f"task {task.id} of the suite {self.name!r}"
                world.set_state(task.start)
                if world.success(task.start, task.goal):
                    raise ValueError(f"{where} is solved at its start; make the suite anew")
                for action in task.solution[: self.horizon]:
                    world.step(action)
                if not world.success(world.get_state(), task.goal):
                    raise ValueError(f"the solution of {where} misses its goal; make the suite anew")
        finally:
            world.close()

    def _content(self) -> dict[str, Any]:
        tasks = [task.to_json() for task in self.tasks]
        return {
            "format": _FORMAT,
            "name": self.name,
            "env_id": self.env_id,
            "horizon": self.horizon,
            "tasks": tasks,
        }


def make_suite(env_id: str, count: int, seed: int, name: str | None = None) -> TaskSuite:
    """Draw `count` tasks from the random stream "tasks", which collection cannot use.

    Each is certified: a scripted policy, which is no planner, must reach the goal within the horizon, and
    its actions are kept as the task's solution. Tasks that it misses, or that are solved at the start, are
    redrawn. Labels follow the world's `task_mix` in every prefix of the suite, so that a short evaluation
    on the first tasks is as hard as a long one.

    Raises:
        ValueError: unknown environment, count < 1, or no certified task found in 1000 draws.
    """
    if count < 1:
        raise ValueError(f"a task suite has at least 1 task, not {count}")
    world = make_world(env_id)
    try:
        tasks: list[Task] = []
        for task_id in range(count):
            # The kind of task that is furthest behind its share is next.
            made = [task.label for task in tasks]
            behind = {
                kind: share * (task_id + 1) - made.count(kind) for kind, share in world.task_mix.items()
            }
            wanted = max(behind, key=lambda kind: behind[kind])
            rng = keyed_rng("tasks", seed, task_id)
            tasks.append(_draw_task(world, rng, task_id, wanted))
        default_name = f"{env_id.split('/')[-1]}-{count}-seed{seed}"
        return TaskSuite(name or default_name, env_id, world.horizon, tuple(tasks))
    finally:
        world.close()


def _draw_task(world: TaskWorld, rng: np.random.Generator, task_id: int, wanted: str) -> Task:
    for _ in range(_MAX_DRAWS):
        start, goal, label = world.sample_task(rng)
        if label == wanted and not world.success(start, goal):
            solution = _scripted_solution(world, start, goal)
            if solution is not None:
                return Task(task_id, start, goal, label, solution)
    raise ValueError(
        f"no certified task {task_id} ({wanted}) in {_MAX_DRAWS} draws; check sample_task and scripted_action"
    )


def _scripted_solution(world: TaskWorld, start: np.ndarray, goal: np.ndarray) -> np.ndarray | None:
    world.set_state(start)
    actions: list[np.ndarray] = []
    while not world.success(world.get_state(), goal):
        if len(actions) == world.horizon:
            return None
        # Three decimals are as good for a certificate and make the file a third of the size.
        actions.append(np.round(world.scripted_action(world.get_state(), goal), 3).astype(np.float32))
        world.step(actions[-1])
    return np.stack(actions)


class TaskEnv(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """A world that plays the tasks of a suite.

    `reset(options={"task": i})` and `reset(seed=i)` both start the task with id i; a plain `reset()` starts
    the one after the last. The episode terminates on success and is truncated at the suite's horizon. After
    that it is frozen: `step` ignores its action and repeats the last observation with reward 0. `info` has
    "task", "success" and "steps".

    Raises:
        ValueError: the suite belongs to another environment, or its states have another length.
    """

    def __init__(self, env: TaskWorld | gym.Env[np.ndarray, np.ndarray], suite: TaskSuite) -> None:
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
        truncated = not success and self.steps >= self.suite.horizon
        info = {**info, **self._info(success)}
        if success or truncated:
            self._end = (observation, 0.0, success, truncated, info)
        return observation, float(reward), success, truncated, info

    def _info(self, success: bool) -> dict[str, Any]:
        return {"task": self.task.id, "success": success, "steps": self.steps}
