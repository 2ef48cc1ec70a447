"""Say what this machine has, and what is missing for which part of the toolkit.

Example:
    worldmodel doctor
    worldmodel doctor json=true

Exit code 0 unless something that is required is missing. Changes nothing.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from experiments import machine
from experiments.cli import UsageError, check_shadowing, main_for
from experiments.describe import table

OPTIONAL = {
    "decord": "a second reader of videos; wheels for Linux x86_64 and Windows only",
    "torchcodec": "a third reader of videos; not in any extra, as its build must fit torch's and FFmpeg's",
    "wandb": "for log=wandb; every run writes metrics.jsonl",
}
#: Extra of this package -> what it installs, and what for.
EXTRAS = {
    "pointmaze": ("gymnasium-robotics", "the worlds PointMaze"),
    "pusht": ("gym-pusht", "the world PushT"),
    "cube": ("ogbench", "the world Cube"),
    "lerobot": ("pyarrow", "recordings of LeRobot"),
    "hdf5": ("h5py", "recordings in HDF5: robomimic, Minari and others"),
    "huggingface": ("transformers", "models of Hugging Face"),
    "timm": ("timm", "encoders of timm"),
    "slurm": ("submitit", "worldmodel slurm"),
    "ray": ("ray", "collection and evaluation as Ray tasks"),
    "cma": ("cma", "planner=cma"),
    "nevergrad": ("nevergrad", "planner=nevergrad"),
}
NO_CAMERA = "only worlds seen by a camera need it, such as Pusher-v5; TwoRoom, Reacher and the demo do not"
#: Backend of OpenGL -> what installs it on Debian and Ubuntu.
CAMERAS = {"egl": "apt install libegl1 libgl1-mesa-dri", "osmesa": "apt install libosmesa6"}


@dataclass
class Config:
    """Settings of the check."""

    json: bool = False  # print JSON instead of a table
    timeout: float = 60.0  # seconds that one probe may take


@dataclass(frozen=True)
class Check:
    """One thing looked for. `status` is ok, missing (required) or optional (absent, and not needed)."""

    name: str
    status: str
    detail: str


def run(config: Config) -> None:
    """Print what was found.

    Raises:
        ValueError: something required is missing.
    """
    found = checks(config.timeout)
    if config.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        print(table([("what", "", "found"), *((c.name, c.status, c.detail) for c in found)], 110, indent=""))
    missing = [check.name for check in found if check.status == "missing"]
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}; `make install`, or `pip install -e .`, installs it")


def checks(timeout: float) -> list[Check]:
    """Look for everything; the probes run two at a time, each in a process of its own."""
    names = ["torch", "av", *machine.LIBRARIES]
    cameras = list(CAMERAS) if sys.platform == "linux" else ["cgl" if sys.platform == "darwin" else "glfw"]
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda name: machine.probe(name, timeout=timeout), names)
        pictures = pool.map(lambda gl: machine.probe(gl, timeout=timeout), cameras)
        libraries = [_library(name, answer) for name, answer in zip(names, answers, strict=True)]
        drawn = dict(zip(cameras, pictures, strict=True))
        return [*_system(), _shadowing(), *libraries, *_extras(), *_cameras(drawn)]


def _system() -> Iterator[Check]:
    found = machine.system()
    memory = found["memory_gib"]
    yield Check("python", "ok", f"{found['python']} ({sys.executable})")
    yield Check("system", "ok", f"{found['os']}, {found['cores']} cores, {memory or 'unknown'} GiB memory")
    if gl := os.environ.get("MUJOCO_GL"):
        yield Check("MUJOCO_GL", "ok", f"{gl}; worlds try only this, unless it is unset")
    yield Check("disk", "ok", f"{found['disk_free_gib']} GiB free here")


def _shadowing() -> Check:
    try:
        check_shadowing()
    except UsageError as error:
        return Check("imports", "missing", str(error))
    return Check("imports", "ok", "worldmodel, envs, planners and configs are this installation's own")


def _library(name: str, found: dict[str, Any]) -> Check:
    title = machine.LIBRARIES.get(name, name)
    if "error" in found:
        why = f"{found['error']} ({OPTIONAL[name]})" if name in OPTIONAL else found["error"]
        if name == "mujoco" and os.environ.get("MUJOCO_GL"):
            why += f"; MUJOCO_GL={os.environ['MUJOCO_GL']} may name what is not there: unset it"
        return Check(title, "optional" if name in OPTIONAL else "missing", why)
    parts = [found["version"]]
    if name == "torch":
        accelerators = [*found["cuda"], *(["Apple MPS"] if found["mps"] else [])]
        parts.append(f"{found['threads']} threads, {', '.join(accelerators) or 'no GPU: runs on the CPU'}")
        parts.append(f"matrix products in bfloat16 at {found['bf16_speed']}x the speed of float32")
    if name == "av":
        parts.append(f"decodes {', '.join(found['decode']) or 'nothing'}")
        parts.append(f"encodes with {', '.join(found['encode']) or 'nothing'}")
    return Check(title, "ok", "; ".join(parts))


def _extras() -> Iterator[Check]:
    """Optional packages, whether installed; they are not imported here."""
    for extra, (package, purpose) in EXTRAS.items():
        try:
            yield Check(package, "ok", f"{metadata.version(package)}; for {purpose}")
        except metadata.PackageNotFoundError:
            yield Check(
                package, "optional", f"not installed; for {purpose}: pip install 'worldmodel[{extra}]'"
            )


def _cameras(found: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """What each backend of OpenGL drew; worlds take the first that works."""
    works = [gl for gl, answer in found.items() if "error" not in answer]
    for gl, answer in found.items():
        if gl in works:
            detail = f"first picture in {answer['milliseconds']} ms by {answer['renderer']}"
        elif works:
            detail = f"not needed beside {works[0]} ({answer['error']})"
        else:
            detail = f"{CAMERAS[gl] + '; ' if gl in CAMERAS else ''}{NO_CAMERA} ({answer['error']})"
        yield Check(f"GL camera ({gl})", "ok" if gl in works else "optional", detail)


if __name__ == "__main__":
    raise SystemExit(main_for("doctor"))
