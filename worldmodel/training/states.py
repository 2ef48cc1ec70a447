"""When a training's state is saved: now and then, at its end, and when it is stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from worldmodel.training.checkpoint import load_training_state, newest_state, save_training_state
from worldmodel.training.distributed import World
from worldmodel.training.parallel import Replica
from worldmodel.training.run import Run

if TYPE_CHECKING:
    from worldmodel.training.loop import LoopConfig

#: Saving large states takes longer than the seconds between them: at most this share of the time goes into it.
_SHARE_OF_TIME = 0.05


class States:
    """Loads and saves the state of one training in its run's directory."""

    def __init__(
        self, run: Run, replica: Replica, optimizer: torch.optim.Optimizer, config: LoopConfig, world: World
    ) -> None:
        self._run, self._model, self._optimizer = run, replica.objective, optimizer
        self._config, self._world = config, world
        self._path = run.path / "state.safetensors"
        self._saved, self._cost = time.monotonic(), 0.0

    def load(self) -> int:
        """Continue from the newest state; returns the number of finished steps, 0 where there is none.

        Raises:
            ValueError: It does not fit.
        """
        if not self._world.from_first(lambda: newest_state(self._path) is not None):
            return 0
        return self._world.together(load_training_state, self._path, self._model, self._optimizer)

    def due(self, done: int) -> bool:
        """Whether to save after ``done`` steps."""
        every, pause = self._config.checkpoint_steps, self._config.checkpoint_seconds
        if pause > 0:
            pause = max(pause, self._cost / _SHARE_OF_TIME)
        return bool(every and done % every == 0) or time.monotonic() - self._saved > pause

    def save(self, done: int) -> None:
        """Save after ``done`` steps; every process calls it.

        Raises:
            OSError: The disk is full; the previous state stays.
        """
        start = time.monotonic()
        save_training_state(self._path, self._model, self._optimizer, done)
        self._run.record_seconds()
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def last_good(self) -> str:
        """What can be continued from, in words."""
        found = newest_state(self._path)
        return f"the last good training state is {found}" if found else "no training state was saved yet"
