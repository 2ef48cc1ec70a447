"""What an evaluation of an agent leaves on disk: finished tasks, their pictures, results, and the work of shards."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from envs.evaluate import TaskResult, wilson
from worldmodel.atomic import read_json, write_atomic, write_bytes

Row = dict[str, Any]
_LIBRARIES = ("worldmodel", "torch", "numpy", "gymnasium", "mujoco")


class FinishedTasks:
    """Rows of the finished tasks in ``tasks.jsonl``, and the pictures of each in ``episodes/``.

    Attributes:
        rows: By the tasks' ids; those of an interrupted evaluation to begin with.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._log = path, path / "tasks.jsonl"
        (path / "episodes").mkdir(exist_ok=True)
        self.rows = _read(self._log)
        if self._log.exists():
            self._write()  # without a last line that was cut short

    def add(self, result: TaskResult) -> None:
        """Keep a result and its pictures."""
        save_episode(self._episode(self.path, result.id), result)
        self._append(result.to_json())

    def take_over(self, shards: Path, config: Row) -> None:
        """Take what shards of the same configuration have finished, and leave them as they are.

        Raises:
            ValueError: A shard has another configuration.
        """
        for shard in sorted(shards.glob("*-of-*")):
            if not (shard / "config.json").is_file():
                continue
            if read_json(shard / "config.json") != config:
                raise ValueError(
                    f"{shard} holds a shard of another configuration; delete it or choose another out=..."
                )
            for task, row in sorted(_read(shard / "tasks.jsonl").items()):
                if task not in self.rows:
                    _copy(self._episode(shard, task), self._episode(self.path, task))
                    self._append(row)

    def sorted(self) -> list[Row]:
        """All rows by their ids, which is also the order that the file has from now on."""
        order = sorted(self.rows)
        if order != list(self.rows):
            self.rows = {task: self.rows[task] for task in order}
            self._write()
        return list(self.rows.values())

    def _append(self, row: Row) -> None:
        with open(self._log, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows[row["id"]] = row

    def _write(self) -> None:
        content = "".join(json.dumps(row) + "\n" for row in self.rows.values())
        if self._log.read_text() != content:
            write_bytes(self._log, content.encode())

    @staticmethod
    def _episode(path: Path, task: int) -> Path:
        return path / "episodes" / f"{task:04d}.npz"


def save_episode(path: Path, result: TaskResult) -> None:
    """Keep an episode's frames ``(T + 1, C, H, W)`` and its goal's picture, for reports."""
    frames, goal = result.frames, result.goal_frame
    assert frames is not None and goal is not None, "every task is recorded"

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, frames=frames, goal=goal)

    write_atomic(path, write)


def summarise(tasks: list[Row], horizon: int) -> Row:
    """What the rows of all tasks say together; docs/plan.md explains the keys."""
    labels = {
        label: [
            sum(t["success"] for t in tasks if t["label"] == label),
            sum(t["label"] == label for t in tasks),
        ]
        for label in sorted({task["label"] for task in tasks})
    }
    ways = [task["efficiency"] for task in tasks if task["efficiency"] is not None]
    goes_on = tasks[0]["held"] is not None
    return {
        "episodes": len(tasks),
        **_count(tasks, "success"),
        "final": _count(tasks, "final_success"),
        "held": _count(tasks, "held") if goes_on else None,
        "labels": labels,
        "success_by_step": [
            sum(t["success"] and t["steps"] <= step for t in tasks) for step in range(horizon + 1)
        ],
        "final_distance": float(np.mean([task["final_distance"] for task in tasks])),
        "path_efficiency": float(np.mean(ways)) if ways else None,
        "seconds_per_decision": float(np.mean([task["seconds_per_decision"] for task in tasks])),
    }


def versions() -> dict[str, str]:
    """Of Python and the libraries that outcomes may depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from an unpacked archive
            found[name] = "unknown"
    return found


def _count(tasks: list[Row], key: str) -> Row:
    successes = sum(task[key] for task in tasks)
    return {"successes": successes, "interval": list(wilson(successes, len(tasks)))}


def _read(path: Path) -> dict[int, Row]:
    """Finished tasks of a file; a line that was cut short does not count."""
    if not path.exists():
        return {}
    content = path.read_text()
    whole = content[: content.rfind("\n") + 1]
    return {task["id"]: task for task in map(json.loads, whole.splitlines())}


def _copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where the file system has that, else a copy."""

    def write(file: Path) -> None:
        file.unlink()
        try:
            os.link(source, file)
        except OSError:
            shutil.copyfile(source, file)

    write_atomic(target, write)
