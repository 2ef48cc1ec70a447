"""A suite of held-out tasks: a frozen file of (start, goal) pairs, each reached by recorded actions."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.task_making import solves_itself, steps_to_goal
from envs.world import make_world

_FORMAT = 1


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

    def first(self, count: int) -> TaskSuite:
        """The suite of the first `count` tasks; it has a hash of its own.

        Raises:
            ValueError: there are not so many tasks, or count < 1.
        """
        if not 1 <= count <= len(self):
            raise ValueError(
                f"the suite {self.name!r} has {len(self)} tasks; choose 1 to {len(self)}, not {count}"
            )
        return self if count == len(self) else replace(self, tasks=self.tasks[:count])

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
                file.write(self._text())
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

    def verify(self, idle: bool = True) -> None:
        """Play every recorded solution in the simulator, and, if `idle`, nothing at all.

        Raises:
            ValueError: a task is solved at its start or by doing nothing, or its solution does not reach the
                goal within the horizon.
        """
        world = make_world(self.env_id)
        try:
            for task in self.tasks:
                where = f"task {task.id} of the suite {self.name!r}"
                if world.success(task.start, task.goal):
                    raise ValueError(f"{where} is solved at its start; make the suite anew")
                if steps_to_goal(world, task.start, task.goal, task.solution[: self.horizon]) is None:
                    raise ValueError(f"the solution of {where} misses its goal; make the suite anew")
                if idle and solves_itself(world, task.start, task.goal, self.horizon):
                    raise ValueError(f"{where} is solved by doing nothing; make the suite anew")
        finally:
            world.close()

    def _text(self) -> str:
        """JSON with a line for each task, so that a change of one can be seen in a file's history."""
        content = self._content()
        tasks = ",\n".join(
            json.dumps(task, separators=(",", ":"), allow_nan=False) for task in content["tasks"]
        )
        head = json.dumps({**content, "sha256": self.hash, "tasks": None}, allow_nan=False)
        return head.replace('"tasks": null', f'"tasks": [\n{tasks}\n]') + "\n"

    def _content(self) -> dict[str, Any]:
        tasks = [task.to_json() for task in self.tasks]
        return {
            "format": _FORMAT,
            "name": self.name,
            "env_id": self.env_id,
            "horizon": self.horizon,
            "tasks": tasks,
        }
