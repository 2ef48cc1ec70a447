"""What several jobs share: run directories, devices and threads, batches from episode stores."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.window_loader import WindowLoader
from worldmodel.data.windows import Windows
from worldmodel.objectives.base import Batch
from worldmodel.seeding import KeyedOrder
from worldmodel.training.distributed import rank_indices
from worldmodel.training.loop import LoopConfig
from worldmodel.training.machine import choose_device, choose_precision, keep_freed_memory
from worldmodel.training.run import Run, config_hash

#: Keys that say where or how fast to work, not what comes out.
_NOT_THE_RESULT = ("out", "workers", "device", "threads", "num_envs", "shard", "log")
#: The same in the loop's settings. Processes, micro-batches and compilation change rounding at most.
_NOT_THE_RESULT_OF_A_LOOP = (
    "accumulate",
    "strategy",
    "compile",
    "checkpoint_seconds",
    "checkpoint_steps",
)
#: And in a corpus's: a run that stopped for its damaged files goes on once more of them are allowed.
_NOT_THE_RESULT_OF_A_CORPUS = ("max_damaged", "backend")


def open_run(job: str, config: Any, inputs: dict[str, str] | None = None, part: str = "") -> Run:
    """The run's directory: ``config.out``, or ``runs/<job>/<hash of the configuration>``.

    So the same command continues or finds its own run, and another configuration gets another directory.

    Args:
        job: The job's name.
        config: Its settings.
        inputs: Hashes of what it reads. A finished run is not mistaken for one of other data or another model that
            have taken their place.
        part: A directory below the run's, where a part of it is worked on, such as a shard.
    """
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NOT_THE_RESULT}
    for section, left_out in (("loop", _NOT_THE_RESULT_OF_A_LOOP), ("corpus", _NOT_THE_RESULT_OF_A_CORPUS)):
        if isinstance(values.get(section), dict):
            values[section] = {k: v for k, v in values[section].items() if k not in left_out}
    values["inputs"] = inputs or {}
    path = Path(config.out).expanduser() if config.out else Path("runs") / job / config_hash(values)
    return Run(path / part, values, getattr(config, "log", None))


def command_line(job: str) -> str:
    """The command that runs in this process, as it was typed; empty if the job was called from elsewhere."""
    if Path(sys.argv[0]).stem == job:
        return shlex.join(["worldmodel", job, *sys.argv[1:]])
    return shlex.join(["worldmodel", *sys.argv[1:]]) if sys.argv[1:2] == [job] else ""


def prepare(run: Run, device: str, threads: int) -> str:
    """Set the number of torch threads, and return the device; both are chosen once per run and recorded.

    Raises:
        ValueError: The device is not there, or the run began with another device or number of threads.
    """
    count = run.choose("threads", lambda: threads or torch.get_num_threads())
    chosen = choose_device(run.choose("device", lambda: choose_device(device)))
    if (threads and threads != count) or device not in ("auto", chosen):
        raise ValueError(
            f"{run.path} began with threads={count} device={chosen}; leave both out to continue it"
        )
    torch.set_num_threads(count)
    if chosen == "cpu":
        keep_freed_memory()
    return chosen


def resolve_precision(run: Run, loop: LoopConfig, device: str) -> LoopConfig:
    """The loop's settings with ``precision: auto`` decided, once per run."""
    return dataclasses.replace(
        loop, precision=run.choose("precision", lambda: choose_precision(loop.precision, device))
    )


def split_episodes(store: EpisodeStore, held_out: float) -> tuple[range, range]:
    """Positions of the episodes to train on, and of those held out (the last ones).

    Raises:
        ValueError: Nothing would be left to train on.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out} is no share; choose 0 <= held_out < 1")
    count = max(1, round(held_out * len(store)))
    if count >= len(store):
        raise ValueError(f"{store.path} has {len(store)} episodes, too few to hold {count} out; collect more")
    return range(len(store) - count), range(len(store) - count, len(store))


class WindowBatches:
    """From the step to this process's part of its batch of windows with actions, read ahead by a thread."""

    def __init__(
        self, windows: Windows, batch_size: int, seed: int, proprio: bool = False, device: str = "cpu"
    ) -> None:
        order = KeyedOrder(len(windows), seed)
        self._size = batch_size
        self._loader = WindowLoader(
            windows,
            lambda step: [order[i] for i in rank_indices(step, batch_size)],
            proprio=proprio,
            pin=device.startswith("cuda"),
        )

    def __call__(self, step: int) -> Batch:
        found = self._loader(step)
        ids = rank_indices(step, self._size)
        return Batch(step, ids, views=(found.frames,), actions=found.actions, proprio=found.proprio)

    def __enter__(self) -> WindowBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self._loader.close()


def window_batches(
    windows: Windows, batch_size: int, seed: int, proprio: bool = False, device: str = "cpu"
) -> WindowBatches:
    """A function from the step to this process's part of its batch; as a context, it ends its thread."""
    return WindowBatches(windows, batch_size, seed, proprio, device)
