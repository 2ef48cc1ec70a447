"""Say what this machine has, and what is missing for which part of the toolkit.

Example:
    worldmodel doctor
    worldmodel doctor json=true

Exit code 0 unless something that is required is missing. Changes nothing.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from experiments import machine
from experiments.cli import UsageError, check_shadowing, main_for
from experiments.describe import table

OPTIONAL = {
    "decord": "a second video reader, not used by a job yet; wheels for Linux x86_64 and Windows only",
    "wandb": "not used by a job yet; every run writes metrics.jsonl",
}
NO_CAMERA = "only MuJoCo worlds seen through GL cameras need it; TwoRoom, the demo and the tests do not"
CAMERAS = {  # MUJOCO_GL -> what installs it on Debian and Ubuntu
    "egl": "apt install libegl1 libgl1-mesa-dri",
    "osmesa": "apt install libosmesa6",
}


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
    cameras = list(CAMERAS) if sys.platform == "linux" else [""]
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda name: machine.probe(name, timeout=timeout), names)
        pictures = pool.map(lambda gl: _picture(gl, timeout), cameras)
        libraries = [_library(name, answer) for name, answer in zip(names, answers, strict=True)]
        return [*_system(), _shadowing(), *libraries, *pictures]


def _system() -> Iterator[Check]:
    found = machine.system()
    memory = found["memory_gib"]
    yield Check("python", "ok", f"{found['python']} ({sys.executable})")
    yield Check("system", "ok", f"{found['os']}, {found['cores']} cores, {memory or 'unknown'} GiB memory")
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
        return Check(title, "optional" if name in OPTIONAL else "missing", why)
    parts = [found["version"]]
    if name == "torch":
        accelerators = [*found["cuda"], *(["Apple MPS"] if found["mps"] else [])]
        parts.append(f"{found['threads']} threads, {', '.join(accelerators) or 'no GPU: runs on the CPU'}")
        parts.append(f"matrix products in bfloat16 at {found['bf16_speed']}x the speed of float32")
    if name == "av":
        parts += [f"{way}s {', '.join(found[way]) or 'nothing'}" for way in ("decode", "encode")]
    return Check(title, "ok", "; ".join(parts))


def _picture(gl: str, timeout: float) -> Check:
    # MUJOCO_GL is set for the probe only: where the library is missing, it would break `import mujoco` itself.
    found = machine.probe("camera", environ={"MUJOCO_GL": gl} if gl else {}, timeout=timeout)
    title = f"GL camera ({gl or 'system'})"
    if "error" in found:
        fix = f"{CAMERAS[gl]}; " if gl else ""
        return Check(title, "optional", f"{fix}{NO_CAMERA} ({found['error']})")
    return Check(
        title, "ok", f"a 64 x 64 picture in {found['milliseconds']} ms" + (f"; MUJOCO_GL={gl}" if gl else "")
    )


if __name__ == "__main__":
    raise SystemExit(main_for("doctor"))
