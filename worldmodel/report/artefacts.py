"""Reading what the stages of a demo left on disk; a stage that is not there yet reads as None."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import read_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.report.figures import Bar
from worldmodel.training.run import read_metrics


@dataclass(frozen=True)
class Kind:
    """A policy of the demo: its name in directories, what it is called in the report, and what it is."""

    name: str
    label: str
    what: str


POLICIES = (
    Kind("vjepa", "V-JEPA, pretrained", "plans in the latents of the pretrained, frozen encoder"),
    Kind(
        "untrained_encoder", "Untrained encoder", "control: the same on a frozen encoder with random weights"
    ),
    Kind("end_to_end", "End to end", "encoder, head and predictor learn together from pixels"),
    Kind("simulator", "True simulator", "a smaller search, with the true simulator and the true distance"),
    Kind("random", "Random actions", "control: no plan"),
    Kind("noop", "No action", "control: the ball stays"),
)
MODELS = POLICIES[:3]
#: Directories of the stages, in order.
STAGES = (
    "data",
    "pretrain",
    *[f"train_{kind.name}" for kind in MODELS],
    *[f"plan_{kind.name}" for kind in POLICIES],
)
LABELS = {kind.name: kind.label for kind in POLICIES}


@dataclass(frozen=True)
class Episode:
    """A played task: its row of ``results.json``, ``frames (T+1, C, H, W)`` and ``goal (C, H, W)`` uint8."""

    task: dict[str, Any]
    frames: np.ndarray
    goal: np.ndarray


class DemoRun:
    """The directory of a demo.

    Raises:
        FileNotFoundError: There is nothing of a demo in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        begun = any((self.path / name).is_dir() for name in STAGES)
        if not begun and not (self.path / "stages.json").is_file():
            raise FileNotFoundError(
                f"no demo run at {self.path} (no stages.json and no stage); make one with: worldmodel demo"
            )

    def json(self, name: str) -> Any:
        """A JSON file of the run by its relative path, or None.

        Raises:
            ValueError: It is damaged.
        """
        file = self.path / name
        return read_json(file) if file.is_file() else None

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The metrics of a training stage; none if it has not begun.

        Raises:
            ValueError: The file is damaged.
        """
        file = self.path / stage / "metrics.jsonl"
        try:
            return read_metrics(file) if file.is_file() else []
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}); delete {file.parent} and train again") from error

    def store(self) -> EpisodeStore | None:
        """The collected episodes."""
        return EpisodeStore(self.path / "data") if (self.path / "data" / "meta.json").is_file() else None

    def model(self, stage: str) -> Path | None:
        """The model directory of a training stage."""
        directory = self.path / stage / "model"
        return directory if (directory / "config.json").is_file() else None

    def results(self, policy: str) -> dict[str, Any] | None:
        """``results.json`` of a policy."""
        found: dict[str, Any] | None = self.json(f"plan_{policy}/results.json")
        return found

    def bars(self) -> list[Bar]:
        """Success rates of the policies that have results, in the report's order."""
        bars = []
        for kind in POLICIES:
            found = self.results(kind.name)
            if found:
                low, high = found["interval"]
                ours = kind.name == "vjepa"
                bars.append(Bar(kind.label, found["successes"], found["episodes"], low, high, ours))
        return bars

    def episode(self, policy: str, task: dict[str, Any]) -> Episode | None:
        """The pictures of a played task, or None if they were not kept.

        Raises:
            ValueError: The file is damaged.
        """
        return read_episode(self.path / f"plan_{policy}", task)

    def stages(self) -> list[dict[str, Any]]:
        """Name, sentence, command and seconds of each stage that ran."""
        return self.json("stages.json") or []

    def machines(self) -> dict[str, dict[str, Any]]:
        """What each stage chose by looking at the machine."""
        found = {name: self.json(f"{name}/machine.json") for name in STAGES}
        return {name: choices for name, choices in found.items() if choices}


def read_episode(run: Path, task: dict[str, Any]) -> Episode | None:
    """The pictures of a task that the run of ``worldmodel plan`` in ``run`` played, or None if they were not kept.

    Raises:
        ValueError: The file is damaged.
    """
    file = run / "episodes" / f"{task['id']:04d}.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            frames, goal = arrays["frames"], arrays["goal"]
    except (KeyError, OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete {run} and plan again") from error
    return Episode(task, frames, goal)


def paired(a: dict[str, Any], b: dict[str, Any]) -> tuple[int, int] | None:
    """How many tasks only ``a`` and only ``b`` solved, if both played the same suite."""
    if a.get("suite") != b.get("suite"):
        return None
    solved_a = {task["id"]: task["success"] for task in a["tasks"]}
    solved_b = {task["id"]: task["success"] for task in b["tasks"]}
    both = solved_a.keys() & solved_b.keys()
    return sum(solved_a[i] and not solved_b[i] for i in both), sum(
        solved_b[i] and not solved_a[i] for i in both
    )


def choose_spread(tasks: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` tasks from shortest to longest way, evenly spread over the order."""
    ordered = sorted(tasks, key=lambda task: (task["start_distance"], task["id"]))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count)]
