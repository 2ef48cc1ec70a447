"""Choices made by looking at the machine. ``Run.choose`` records them, so that a resumed run makes the same ones."""

from __future__ import annotations

import ctypes
import sys
import time

import torch

from worldmodel.training.distributed import current_world


def choose_device(wanted: str) -> str:
    """``"auto"`` takes a GPU where there is one.

    Raises:
        ValueError: The device is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise ValueError(f"device={wanted!r} is unknown; choose 'auto', 'cpu' or 'cuda'")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU here; use device=cpu, or see: worldmodel doctor")
    local_rank = current_world().local_rank
    if wanted == "cuda" and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; start no more "
            "processes than that (torchrun --nproc-per-node)"
        )
    return wanted


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free for the next ones; returns whether it could be told so.

    glibc gives large pieces back to the system, which clears them page by page when they are wanted again: a fifth of
    the processor time of training a 64-pixel world model on a CPU (30,000 page faults a step, and hardly one with
    this). Memory in use does not grow beyond its peak. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    trim_threshold, mmap_max = -1, -4  # names of its parameters in malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1)) and bool(mallopt(mmap_max, 0))


def choose_precision(wanted: str, device: str) -> str:
    """``"auto"`` takes bf16 where matrix products are clearly faster in it, which a CPU decides by a short test."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if _matmul_seconds(torch.bfloat16) < 0.6 * _matmul_seconds(torch.float32) else "fp32"


def _matmul_seconds(dtype: torch.dtype) -> float:
    """The fastest of a few products, since other processes disturb the slower ones."""
    a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return min(times)
