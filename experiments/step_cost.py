"""What a training step costs: processor time, and memory at most beyond what the process held before.

Measured by short trainings of their own, so that neither interruptions nor other programs on the machine matter.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments import pretrain
from experiments.settings import compose_settings
from experiments.stages import Stage
from worldmodel.atomic import write_json

#: Steps of two trainings, of which only the difference counts.
_FEW, _MORE = 2, 22
_MIB = 2**20


def measure_cost(training: Stage, file: Path) -> None:
    """Write ``processor_ms`` of a step and ``peak_mib`` of a training, once; None where the system does not tell.

    On a GPU, processor time is that of the clock: the steps are waited for.

    Args:
        training: A stage of worldmodel pretrain.
        file: Where to.
    """
    if file.exists():
        return
    _seconds(training.overrides, 1)  # loads libraries
    before = _begin()
    _seconds(training.overrides, _FEW)
    peak = _peak(before)
    # Again, now that memory has been fetched, so that only the further steps differ.
    few, more = (_seconds(training.overrides, steps) for steps in (_FEW, _MORE))
    cost: dict[str, Any] = {"processor_ms": 1000 * (more - few) / (_MORE - _FEW), "peak_mib": peak}
    write_json(file, cost)


def _seconds(overrides: Sequence[str], steps: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        few = [text for text in overrides if not text.startswith(("out=", "loop.steps=", "log."))]
        settings = compose_settings(
            "pretrain",
            pretrain.Config,
            [*few, f"loop.steps={steps}", f"out={out}/run"],
            schemas=pretrain.SCHEMAS,
        )
        clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        start = clock()
        pretrain.run(settings.to_object())
        return clock() - start


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
