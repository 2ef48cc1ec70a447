"""What a training says while it runs: metrics, a progress bar, and a few lines through ``logging``."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from worldmodel.objectives.base import Batch
from worldmodel.training.diagnosis import Watch
from worldmodel.training.distributed import World
from worldmodel.training.estimate import estimate
from worldmodel.training.parallel import Replica
from worldmodel.training.run import Metrics, Run, read_metrics
from worldmodel.training.sinks import WandbSink

if TYPE_CHECKING:
    from worldmodel.training.loop import LoopConfig

logger = logging.getLogger(__name__)

#: The first steps are slow (caches, compilation) and tell nothing about the others.
_WARM_STEPS = 3
#: Without a terminal there is no bar, but a line now and then.
_SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Metrics and progress of one training. The first process writes; the others only learn of its failures.

    Args:
        run: Its directory.
        config: The loop's settings.
        label: Stands before every line.
        first: The step that it begins at.
        world: The processes.
    """

    def __init__(self, run: Run, config: LoopConfig, label: str, first: int, world: World) -> None:
        self._run, self._config, self._label, self._world = run, config, label, world
        self._first = self._done = first
        self._marks: list[tuple[int, float]] = []  # (finished steps, time) where timing began
        self._announced = False
        self._last_line = time.monotonic()
        world.from_first(self._open)

    def _open(self) -> None:
        file = self._run.path / "metrics.jsonl"
        self._metrics = Metrics(file, resume_step=self._first)
        self._watch = Watch(read_metrics(file), self._run.config)
        self._wandb = WandbSink(self._run.log, self._run.path, self._run.config)
        clips = self._config.batch_size
        self._bar = tqdm(
            total=self._config.steps * clips,
            initial=self._first * clips,
            desc=self._label,
            unit="clip",
            unit_scale=True,
            disable=None,
            leave=False,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._world.first:
            self._bar.close()
            self._metrics.close()
            self._wandb.close(failed=kind is not None)

    def announce(self, replica: Replica, batch: Batch) -> None:
        """Before the first step: how large the training is."""
        if not self._world.first:
            return
        config, size = self._config, self._world.size
        micro_batch = batch.split(config.accumulate)[0] if config.accumulate > 1 else batch
        sharded = size if config.strategy == "fsdp" else 1
        parts = [str(estimate(replica, micro_batch, config.precision, sharded))]
        parts.append(f"batch {config.batch_size}")
        if size > 1:
            parts[-1] += f" = {size} processes ({config.strategy})"
            parts[-1] += f" x {config.accumulate} x {len(micro_batch.ids)}"
        elif config.accumulate > 1:
            parts[-1] += f" = {config.accumulate} x {len(micro_batch.ids)}"
        at = f"step {self._first} of {config.steps}" if self._first else f"{config.steps} steps"
        logger.info("%s: %s; %s, %s", self._label, "; ".join(parts), at, config.precision)

    def log(self, row: dict[str, Any]) -> None:
        """Write a row of metrics, and say what it gives cause to warn of; every process calls it.

        Raises:
            OSError: It cannot be written (full disk).
        """

        def write() -> None:
            self._metrics.log(row)
            self._wandb.log(row)
            for text in self._watch.see(row):
                logger.warning("%s: %s", self._label, text)

        self._world.from_first(write)

    def advance(self, loss: float) -> None:
        """A step is finished."""
        self._done += 1
        if not self._world.first:
            return
        now = time.monotonic()
        if self._done - self._first == _WARM_STEPS:
            self._marks.append((self._done, now))
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(self._config.batch_size)
        if self._marks and not self._announced and now - self._marks[0][1] > 2.0:
            self._announced = True
            logger.info("%s: %s", self._label, self.speed(now))
        elif self._bar.disable and self._marks and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            logger.info("%s: step %d, loss %.3f, %s", self._label, self._done, loss, self.speed(now))

    def speed(self, now: float) -> str:
        """Clips per second since the warm-up steps, and what is left at this speed."""
        done, then = self._marks[0]
        per_step = (now - then) / max(1, self._done - done)
        left = per_step * (self._config.steps - self._done)
        return f"{self._config.batch_size / per_step:.3g} clips/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
