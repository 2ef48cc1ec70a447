"""Samples read ahead by worker processes, the same ones in the same order whatever their number."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

#: One step's samples: arrays stacked into tensors with the samples in front, numbers as tensors, the rest as lists.
Arrays = dict[str, Any]

_STEPS_AHEAD = 2  # per worker
_SECONDS_TO_OUTLIVE_SIGTERM = 30
_NOT_FOR_WORKERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Samples(Protocol):
    """What can be asked for the sample with a global index; must be picklable if workers are to read it."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Named arrays (of one shape in all samples), numbers, strings or lists.

        ``skipped``, if there is one, is a list of what could not be used for this sample.
        """
        ...


class WorkerDied(OSError):
    """A process that read samples was killed."""


class ClipLoader:
    """``loader(step)``: the samples of a step; those of the following steps are read ahead.

    Steps are usually asked for in order; asking for any other one begins anew from there.

    Args:
        samples: Where samples come from.
        indices: The global sample indices of a step, such as this process's part of the batch (``rank_indices``).
        workers: Processes, each of which reads whole steps; 0 reads in this one, nothing ahead. A script that uses them
            needs ``if __name__ == "__main__":``.
        on_skipped: Called, in this process and in the order of samples, with a sample's ``skipped`` list where it is
            not empty. What it raises stops the training.
        pin: Page-locked memory, from which a GPU copies while it computes.

    Raises:
        ValueError: ``workers`` is negative.
    """

    def __init__(
        self,
        samples: Samples,
        indices: Callable[[int], range],
        workers: int = 0,
        on_skipped: Callable[[Sequence[Any]], None] | None = None,
        pin: bool = False,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers={workers} must not be negative")
        self._samples, self._indices, self._workers, self._pin = samples, indices, workers, pin
        self._on_skipped = on_skipped
        self._next = -1
        self._stream: Iterator[Any] | None = None
        self._processes: list[BaseProcess] = []

    def __call__(self, step: int) -> Arrays:
        """The samples of a step: ``{"frames": (B, T, C, H, W) uint8, "label": (B,) int64, "source": [...], ...}``.

        Raises:
            WorkerDied: A worker was killed.
            ValueError, OSError: What ``samples`` raised.
            RuntimeError: Any other error in a worker, with its traceback.
        """
        ids = self._indices(step)
        arrays = _read(self._samples, ids) if not self._workers else self._read_ahead(step, ids)
        for skipped in arrays.pop("skipped", ()):
            if skipped and self._on_skipped is not None:
                self._on_skipped(skipped)
        return arrays

    def _read_ahead(self, step: int, ids: range) -> Arrays:
        if self._stream is None or step != self._next:
            self._begin(step)
        assert self._stream is not None
        try:
            found = next(self._stream)
        except RuntimeError as error:
            self._next = -1
            raise self._died(ids, error) from error
        if isinstance(found, _Failure):
            self._next = -1
            raise found.error if found.error is not None else RuntimeError(found.text)
        self._next = step + 1
        return found

    def _begin(self, step: int) -> None:
        self.close()
        pin = self._pin and torch.cuda.is_available()
        loader: DataLoader[Any] = DataLoader(
            _Steps(self._samples),
            batch_size=None,  # a step is already a batch
            sampler=_StepRanges(self._indices, step),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            prefetch_factor=_STEPS_AHEAD,
            worker_init_fn=_prepare_worker,
            multiprocessing_context=_context(),
            pin_memory=pin,
        )
        before = set(multiprocessing.active_children())
        with _worker_environment():
            self._stream = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]

    def _died(self, ids: range, error: RuntimeError) -> WorkerDied:
        dead = [process for process in self._processes if process.exitcode not in (None, 0)]
        who = (
            ", ".join(f"{process.pid} ({_ending(process.exitcode)})" for process in dead)
            or "of unknown number"
        )
        hint = "use fewer workers if memory is short"
        if any(word in str(error).lower() for word in ("shared memory", "bus error", "shm")):
            hint = (
                "shared memory (/dev/shm) is full: use fewer workers, or give a container more (--shm-size)"
            )
        return WorkerDied(
            f"worker process {who} of {self._workers} died; samples {ids.start} to {ids.stop - 1} or later ones were "
            f"being read; {hint}, and run the same command again"
        )

    def close(self) -> None:
        """End the workers; a later call begins anew."""
        self._stream = None  # the DataLoader's iterator ends them when it goes
        self._processes = []
        self._next = -1

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def collate(samples: Sequence[Mapping[str, Any]]) -> Arrays:
    """Stack samples: arrays and numbers become tensors with the samples in front, anything else lists."""
    return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}


def _stack(values: list[Any]) -> Tensor | list[Any]:
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    if isinstance(values[0], bool | int | float | np.generic):
        return torch.as_tensor(np.asarray(values))
    return values


def _read(samples: Samples, ids: range) -> Arrays:
    return collate([samples[index] for index in ids])


# In the workers


@dataclass
class _Failure:
    """What went wrong in a worker: an error of the user's, which is raised as it is, or a traceback."""

    text: str
    error: Exception | None


class _Steps(Dataset[Any]):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, ids: range) -> Arrays | _Failure:
        try:
            return _read(self.samples, ids)
        except (ValueError, OSError) as error:
            return _Failure(str(error), _plain(error))
        except Exception:
            return _Failure(
                f"samples {ids.start} to {ids.stop - 1} failed in their process:\n{traceback.format_exc()}",
                None,
            )


class _StepRanges(Sampler[range]):
    """The indices of all steps from one on, without end; only drawn from in the main process."""

    def __init__(self, indices: Callable[[int], range], step: int) -> None:
        self.indices, self.step = indices, step

    def __iter__(self) -> Iterator[range]:
        step = self.step
        while True:
            yield self.indices(step)
            step += 1


def _plain(error: Exception) -> Exception:
    """An error that any process can read: subclasses may have constructors that pickling cannot call."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename) if error.strerror else OSError(str(error))
    return ValueError(str(error))


def _as_it_is(found: Any) -> Any:
    return found


def _prepare_worker(_: int) -> None:
    """Leave signals that are meant for the whole training to the main process, which still needs this one's samples.

    It ends when the main process does, also by ``kill -9``. (DataLoader's own watch is for the process that started
    this one, here the fork server, which in its turn lives as long as any worker.)
    """
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_after, args=(main,), daemon=True).start()
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_TO_OUTLIVE_SIGTERM))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_FOR_WORKERS)


def _end_after(main: BaseProcess) -> None:
    main.join()
    os._exit(1)


# Starting them


def _context() -> Any:
    """Never fork: open videos and threads do not survive it. The fork server imports torch once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Processes that are started inside have one thread each, and signals blocked until they can handle them."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    # Before signals are blocked: where starting a process has to start this one first, Python (until 3.11 at least)
    # unblocks them again, and the fork server and its workers would die of a signal that comes early.
    if os.name == "posix":
        resource_tracker.ensure_running()
    can_mask = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS) if can_mask else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return "killed, out of memory?" if name == "SIGKILL" else name
