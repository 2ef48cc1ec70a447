"""Several processes that train one model: who is who, and how they agree.

Processes are started by ``torchrun`` (or by Slurm, see docs/scale.md); this module only joins them. With one process
everything here is a no-op, so code that uses it needs no second version.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from worldmodel.training.interrupt import Interrupted

T = TypeVar("T")

#: What gloo and NCCL say when the process at the other end has gone.
_CONNECTION_LOST = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "socket timeout",
    "timed out waiting",
    "nccl",
)

_SECONDS_TO_ASK = 1.0


class PeerFailed(RuntimeError):
    """Another process failed and says why; this one only stops."""


@dataclass(frozen=True)
class World:
    """This process among all that train together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        local_rank: Its number on its machine, and so its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and draws the progress bar."""
        return self.rank == 0

    def from_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the first process only; its result (JSON-like values) or its failure reaches all.

        Raises:
            Exception: In the first process, what ``work`` raised.
            PeerFailed: In the others, if it did.
        """
        if self.size == 1:
            return work()
        answer: list[Any] = [None, None]
        error: Exception | None = None
        if self.first:
            try:
                answer = ["ok", work()]
            except Exception as failure:
                error = failure
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if error is not None:
            raise error
        if answer[0] != "ok":
            raise PeerFailed("the first process failed")
        return answer[1]

    def together(self, work: Callable[..., T], *args: Any) -> T:
        """``work(*args)`` in every process; a failure of one stops all, before they wait for it in vain.

        Raises:
            Exception: Where ``work`` raised it.
            PeerFailed: In the others.
        """
        if self.size == 1:
            return work(*args)
        result: T | None = None
        error: Exception | None = None
        try:
            result = work(*args)
        except Exception as failure:
            error = failure
        (failed,) = self.any(error is not None)
        if error is not None:
            raise error
        if failed:
            raise PeerFailed("another process failed")
        return result  # type: ignore[return-value]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true in all processes if it is true in one."""
        if self.size == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in tensor.tolist())

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every process, in the order of ranks."""
        if self.size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return [row.tolist() for row in rows]

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.any(False)


def current_world() -> World:
    """The processes that ``processes`` joined; a world of one outside of it."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


def rank_indices(step: int, batch_size: int, world: World | None = None) -> range:
    """Global sample indices of this process's part of a step's batch; ``batch_size`` is over all processes.

    Raises:
        ValueError: The batch cannot be shared evenly.
    """
    world = world or current_world()
    if batch_size % world.size:
        raise ValueError(
            f"loop.batch_size={batch_size} cannot be shared by {world.size} processes; choose a multiple of "
            f"{world.size}"
        )
    share = batch_size // world.size
    start = step * batch_size + world.rank * share
    return range(start, start + share)


def launched() -> int:
    """How many processes the launcher started, from its environment variables."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextlib.contextmanager
def processes() -> Iterator[World]:
    """Join the processes that torchrun started, and part from them in good order.

    Collective operations on CPU tensors go through gloo, on GPU tensors through NCCL. Inside, whichever process fails
    first keeps its exception, and what this causes in the others becomes ``PeerFailed``. A script of your own should
    end with ``os._exit`` while it handles such an exception, as the command line does: freeing what the exception's
    frames hold (DDP, connections to processes that are gone) may hang.

    Raises:
        ValueError: The launcher's environment variables are incomplete.
        PeerFailed: Another process failed.
        OSError: Another process vanished without a word.
    """
    if launched() == 1 or dist.is_initialized():
        yield current_world()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={launched()} is set, but not {', '.join(missing)}; start with torchrun, or unset WORLD_SIZE"
        )
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if cuda and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    store, rank, size = next(rendezvous("env://"))
    # Hours, since the others wait while the first encodes a dataset; torchrun sees a process that ends at once.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store, rank=rank, world_size=size, timeout=timedelta(hours=12),
    )  # fmt: skip
    try:
        yield current_world()
    except Interrupted:  # all of them agreed to stop
        _part()
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        try:
            if not isinstance(error, PeerFailed):
                _first_failure(store, error)
            raise
        finally:
            if rank == 0:  # it may hold the store that the others ask
                time.sleep(_SECONDS_TO_ASK)
    _part()


def _part() -> None:
    # Without the barrier, a process that leaves early makes the others abort (seen with gloo).
    current_world().wait()
    dist.destroy_process_group()


def _first_failure(store: Any, error: Exception) -> None:
    """Return if this process failed first.

    Raises:
        PeerFailed: Another one did.
        OSError: Another one is gone, and did not say why.
    """
    lost = isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _CONNECTION_LOST)
    try:
        if not lost and store.add("failures", 1) == 1:
            return
        time.sleep(_SECONDS_TO_ASK / 2 if lost else 0.0)  # let the one that failed say so
        told = store.add("failures", 0) > 0
    except Exception:  # the store went with the process that held it
        if not lost:
            return
        told = False
    if told:
        raise PeerFailed("another process failed") from error
    raise OSError(
        "lost the connection to another process: it was killed, or ran out of memory; the same command continues from "
        "the last training state"
    ) from error
