"""The doctor finds what is there, and goes on when a library is missing, broken, crashes or hangs."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from envs import rendering
from experiments import doctor, machine
from experiments.cli import main

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, dict[str, Any]] = {
    "torch": {"version": "2", "threads": 2, "cuda": [], "mps": False, "bf16_speed": 0.5},
    "av": {"version": "18", "decode": ["h264"], "encode": ["libx264"]},
    "egl": {"milliseconds": 3.0, "renderer": "llvmpipe"},
    "osmesa": {"milliseconds": 3.0, "renderer": "llvmpipe"},
}


def answers(monkeypatch: pytest.MonkeyPatch, **other: dict[str, Any]) -> None:
    """Let every probe answer that all is well, but for `other`."""

    def probe(name: str, **_: object) -> dict[str, Any]:
        return other.get(name, GOOD.get(name, {"version": "1"}))

    monkeypatch.setattr(machine, "probe", probe)


def test_the_machine_that_runs_the_tests_is_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    assert main(["doctor", "json=true"]) == 0
    assert dict(os.environ) == before  # MUJOCO_GL is set for the probes only
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    for name in (
        "python",
        "torch",
        "av",
        "numpy",
        "mujoco",
        "gymnasium",
        "hydra-core",
        "safetensors",
        "imports",
    ):
        assert found[name]["status"] == "ok"
    assert "decodes h264" in found["av"]["detail"]
    assert "libx264" in found["av"]["detail"]
    for name in ("decord", "torchcodec", "gymnasium-robotics", "timm"):
        assert found[name]["status"] in ("ok", "optional")
    cameras = [check for name, check in found.items() if name.startswith("GL camera")]
    assert cameras
    for check in cameras:
        assert check["status"] in ("ok", "optional")


@pytest.mark.parametrize("name", ["decord", "torchcodec", "wandb", "osmesa"])
def test_optional_things_may_be_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(metadata, "version", lambda package: "1")
    answers(monkeypatch, **{name: {"error": "OSError: libthing.so is broken"}})
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if "optional" in line)
    assert line.startswith("GL camera (osmesa)" if name == "osmesa" else name)
    assert "libthing.so is broken" in line
    assert err == ""


def test_cameras_that_do_not_work_name_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    answers(monkeypatch, egl={"error": "no display"}, osmesa={"error": "no library"})
    text = " ".join(check.detail for check in doctor.checks(1))
    assert "apt install libegl1 libgl1-mesa-dri" in text
    assert "apt install libosmesa6" in text
    assert "TwoRoom, Reacher and the demo do not" in text
    answers(monkeypatch, egl={"error": "no display"})
    found = {check.name: check for check in doctor.checks(1)}
    assert found["GL camera (egl)"].detail == "not needed beside osmesa (no display)"
    assert "by llvmpipe" in found["GL camera (osmesa)"].detail


def test_extras_are_those_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra, (package, _) in doctor.EXTRAS.items():
        assert package in setup["options.extras_require"][extra], extra
    assert doctor.CAMERAS == rendering.INSTALL


def test_an_extra_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    checks = {check.name: check for check in doctor._extras()}
    assert checks["submitit"].status == "optional"
    assert checks["submitit"].detail.endswith("worldmodel slurm: pip install 'worldmodel[slurm]'")


def test_a_graphics_card_and_a_chosen_backend_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    gpu = "Some GPU (80 GiB, bfloat16, CUDA 12)"
    answers(monkeypatch, torch={**GOOD["torch"], "cuda": [gpu]}, mujoco={"error": "no glGetError"})
    checks = {check.name: check for check in doctor.checks(1)}
    assert gpu in checks["torch"].detail and "0.5x the speed" in checks["torch"].detail
    assert checks["MUJOCO_GL"].detail.startswith("egl;")
    assert "unset it" in checks["mujoco"].detail


def test_required_thing_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, mujoco={"error": "mujoco is not installed"}, torch={"error": "ImportError: x"})
    assert main(["doctor", "json=true"]) == 2
    out, err = capsys.readouterr()
    found = {check["name"]: check["status"] for check in json.loads(out)}  # still JSON, and all of it
    assert (found["mujoco"], found["torch"], found["av"]) == ("missing", "missing", "ok")
    assert err.startswith("worldmodel doctor: error: missing: torch, mujoco;")
    assert err.count("\n") == 1


def test_probe_of_a_library_that_is_not_there() -> None:
    assert machine.probe("library_of_nobody") == {"error": "library_of_nobody is not installed"}


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("raise AttributeError('no glGetError\\nat all')", "AttributeError: no glGetError at all"),
        ("import os; os.abort()", "ended with code"),
        ("import time; time.sleep(60)", "no answer within 2 s"),
    ],
)
def test_probe_survives_whatever_a_library_does_on_import(tmp_path: Path, source: str, word: str) -> None:
    (tmp_path / "rotten.py").write_text(source, encoding="utf-8")
    found = machine.probe("rotten", environ={"PYTHONPATH": str(tmp_path)}, timeout=2)
    assert word in found["error"]


def test_camera_without_gl_libraries_is_an_answer_not_a_crash() -> None:
    assert machine.probe("cgl" if sys.platform == "linux" else "osmesa")["error"]


def test_import_sets_no_environment_variable() -> None:
    code = (
        "import os; before = dict(os.environ); import experiments.doctor; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
