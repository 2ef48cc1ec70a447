"""Batches of windows as tensors, read ahead by threads while the network computes."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.windows import Windows


@dataclass(frozen=True)
class WindowBatch:
    """A batch of windows, ``F = history + 1 + steps`` frames each.

    Attributes:
        frames: ``(B, F, C, H, W)`` uint8, or cached tokens ``(B, F, N, D)`` float32.
        actions: ``(B, F-1, K, A)`` float32 in the environment's own units; ``[:, t]`` leads from frame ``t`` on.
        proprio: ``(B, F, Q)`` float32 in the data's own units, or None.
        length: ``(B,)`` int64: how many of the ``history + 1`` context frames, counted from the present, are real.
    """

    frames: Tensor
    actions: Tensor
    proprio: Tensor | None
    length: Tensor


class WindowLoader:
    """``loader(step)``: the batch of a step; those of the following steps are read ahead by threads.

    What a batch holds depends on ``items`` only, not on the threads. Steps are usually asked for in order; asking for
    any other one begins anew from there. Every batch has memory of its own, which nobody writes to again.

    Threads suffice: reading is a system call that copies, without Python's lock.

    Args:
        windows: Where windows come from.
        items: The windows of a step. It is called in the caller's thread, in order.
        threads: How many steps are read at the same time; 0 reads in the caller's, nothing ahead.
        ahead: Steps that are read before they are asked for.
        proprio: Also read proprioception.
        pin: Page-locked memory, from which a GPU copies while it computes; ignored without a GPU.

    Raises:
        ValueError: ``threads`` or ``ahead`` is negative.
    """

    def __init__(
        self,
        windows: Windows,
        items: Callable[[int], Sequence[int]],
        threads: int = 1,
        ahead: int = 2,
        proprio: bool = False,
        pin: bool = False,
    ) -> None:
        if threads < 0 or ahead < 0:
            raise ValueError(f"threads={threads} and ahead={ahead} must not be negative")
        self._windows, self._items, self._proprio = windows, items, proprio
        self._threads, self._ahead = threads, max(ahead, threads)
        self._pin = pin and torch.cuda.is_available()
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._begun: OrderedDict[int, Future[WindowBatch]] = OrderedDict()

    def __call__(self, step: int) -> WindowBatch:
        """The batch of a step.

        Raises:
            ValueError, OSError: An episode cannot be read.
        """
        if not self._threads:
            return read_batch(self._windows, self._items(step), self._proprio, self._pin)
        if self._process != os.getpid():  # threads do not survive a fork
            self._pool, self._process = None, os.getpid()
            self._begun.clear()
        if next(iter(self._begun), step) != step:
            self._forget()
        for number in range(step, step + self._ahead + 1):
            if number not in self._begun:
                self._begun[number] = self._begin(number)
        return self._begun.pop(step).result()

    def _begin(self, step: int) -> Future[WindowBatch]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "windows")
        return self._pool.submit(read_batch, self._windows, self._items(step), self._proprio, self._pin)

    def _forget(self) -> None:
        for future in self._begun.values():
            future.cancel()
        self._begun.clear()

    def close(self) -> None:
        """End the threads; a later call begins anew."""
        self._forget()
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(wait=True)
        self._pool = None

    def __enter__(self) -> WindowLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_batch(
    windows: Windows, items: Sequence[int], proprio: bool = False, pin: bool = False
) -> WindowBatch:
    """Read windows straight into the memory of one batch.

    Raises:
        ValueError, OSError: An episode cannot be read.
    """
    if pin:
        shape, dtype = windows.shape()
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        frames = torch.empty((len(items), *shape), dtype=kind, pin_memory=True)
        windows.frames(items, out=frames.numpy())
    else:  # NumPy asks for huge pages where it can, torch does not: new memory is then touched sooner
        frames = torch.from_numpy(windows.frames(items))
    return WindowBatch(
        frames=frames,
        actions=torch.from_numpy(windows.actions(items)),
        proprio=torch.from_numpy(windows.proprio(items)) if proprio else None,
        length=torch.from_numpy(windows.lengths(items)),
    )
