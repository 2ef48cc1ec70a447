"""What this machine has, one probe at a time: `python -m experiments.machine <probe>` prints a JSON object.

Each probe runs in a process of its own with a time limit, because what is to be found out (a broken library, a
graphics driver) may raise anything on import, abort the process, or hang.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Import name -> distribution name, for the libraries of which nothing but the version is asked.
LIBRARIES = {
    "numpy": "numpy",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "tqdm": "tqdm",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "wandb": "wandb",
}

#: FFmpeg's names: what videos are usually written with, and by which libraries.
CODECS = ("h264", "hevc", "vp9", "av1")
ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1")


def probe(name: str, *, environ: Mapping[str, str] | None = None, timeout: float = 60) -> dict[str, Any]:
    """Run one probe in a subprocess.

    Args:
        environ: Variables set in that process only.
        timeout: Seconds.

    Returns:
        What the probe found; `{"error": one line}` if it failed, was killed or took too long.
    """
    command = [sys.executable, "-m", "experiments.machine", name]
    # The user's directory is not on the path of the probe, so a file of theirs cannot stand in for a library.
    variables = {**os.environ, **(environ or {}), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout:g} s"}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {
            "error": f"the process ended with code {done.returncode}: {said[-1] if said else 'no message'}"
        }
    return found if isinstance(found, dict) else {"error": "the probe printed something else"}


def system() -> dict[str, Any]:
    """Operating system, Python, cores, memory and disk, without any library."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores,
        "memory_gib": _memory_gib(),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
    }


def _memory_gib() -> float | None:
    """Physical memory, or a container's limit where that is less; None where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return round(memory / 2**30, 1)


# --- probes: run in a process of their own ----------------------------------------------------------------------------


def library(name: str) -> dict[str, Any]:
    """Version of a library that can be imported."""
    from importlib.metadata import PackageNotFoundError, version

    module = importlib.import_module(name)
    try:
        return {"version": version(LIBRARIES.get(name, name))}
    except PackageNotFoundError:
        return {"version": str(getattr(module, "__version__", "unknown"))}


def torch() -> dict[str, Any]:
    """Version, threads, accelerators, and how fast this CPU multiplies in bfloat16."""
    import torch

    cuda = torch.cuda.is_available()
    mps = getattr(torch.backends, "mps", None)
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": [_gpu(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "mps": bool(mps and mps.is_available()),
        "bf16_speed": round(_matmul_seconds("float32") / _matmul_seconds("bfloat16"), 1),
    }


def _gpu(index: int) -> str:
    import torch

    found = torch.cuda.get_device_properties(index)
    bf16 = "bfloat16" if found.major >= 8 else "no bfloat16"  # in hardware; torch emulates it elsewhere
    return f"{found.name} ({found.total_memory / 2**30:.0f} GiB, {bf16}, CUDA {torch.version.cuda})"


def torchcodec() -> dict[str, Any]:
    """Version; its decoders load FFmpeg's libraries, which may be missing where the package is there."""
    importlib.import_module("torchcodec.decoders")
    return library("torchcodec")


def _matmul_seconds(dtype: str) -> float:
    """Best of five: support for bfloat16 is no use where it is emulated, so it is timed rather than asked for."""
    import torch

    a = torch.ones(512, 512, dtype=getattr(torch, dtype))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return min(times)


def av() -> dict[str, Any]:
    """Version, what PyAV can decode, and the encoders that it has."""
    import av

    def has(name: str, mode: Any) -> bool:
        try:
            av.codec.Codec(name, mode)
        except ValueError:  # av's UnknownCodecError
            return False
        return True

    return {
        "version": av.__version__,
        "decode": [name for name in CODECS if has(name, "r")],
        "encode": [name for name in ENCODERS if has(name, "w")],
    }


def camera(gl: str) -> dict[str, Any]:
    """Draw one picture of a box with a backend of OpenGL."""
    from envs.rendering import draw_a_box

    return draw_a_box(gl)


PROBES: dict[str, Callable[[], dict[str, Any]]] = {"torch": torch, "av": av, "torchcodec": torchcodec}
PROBES |= {gl: partial(camera, gl) for gl in ("egl", "osmesa", "cgl", "glfw")}


def main(name: str) -> int:
    """Run a probe here and print what it found, or how it failed, as one line of JSON."""
    try:
        found = PROBES[name]() if name in PROBES else library(name)
    except ModuleNotFoundError as error:
        found = {"error": f"{error.name} is not installed"}
    except Exception as error:  # a probe finds out whether things work: any failure is its answer
        text = " ".join(str(error).split())
        found = {"error": f"{type(error).__name__}: {text}"}
    print(json.dumps(found), flush=True)
    # A graphics driver may crash when Python tidies up; the answer has been given.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
