"""How much memory a stage took at most: of the GPU, or of the process beyond what it held before."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

import torch

from experiments.stages import Stage
from worldmodel.atomic import write_json

_MIB = 2**20


def run_measured(stage: Stage, directory: Path) -> None:
    """Run a stage and note its peak in ``directory/memory.json``, in MiB; none where the system does not tell.

    A finished stage is not run again, and its note stays. An interrupted one is measured from where it goes on.
    """
    if (directory / "memory.json").exists():
        stage.run()
        return
    before = _begin()
    stage.run()
    write_json(directory / "memory.json", {"peak_mib": _peak(before)})


def _begin() -> float | None:
    """Forget earlier peaks; returns the memory that is held now, in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / _MIB
    gc.collect()
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again unseen
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):  # another C library; a container without the right
        return None
    return _status("VmRSS")


def _peak(before: float | None) -> float | None:
    if before is None:
        return None
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _MIB - before
    return _status("VmHWM") - before


def _status(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {key}")
    return int(found[1]) / 1024
