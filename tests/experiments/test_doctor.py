"""The doctor finds what is there, and goes on when a library is missing, broken, crashes or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import doctor, machine
from experiments.cli import main

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, dict[str, Any]] = {
    "torch": {"version": "2", "threads": 2, "cuda": [], "mps": False, "bf16_speed": 0.5},
    "av": {"version": "18", "decode": ["h264"], "encode": []},
    "camera": {"milliseconds": 3.0},
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
    assert found["decord"]["status"] in ("ok", "optional")
    cameras = [check for name, check in found.items() if name.startswith("GL camera")]
    assert cameras
    for check in cameras:
        assert check["status"] in ("ok", "optional")


@pytest.mark.parametrize("name", ["decord", "wandb", "camera"])
def test_optional_things_may_be_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    answers(monkeypatch, **{name: {"error": "OSError: libthing.so is broken"}})
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if "optional" in line)
    assert line.startswith("GL camera" if name == "camera" else name)
    assert err == ""


def test_cameras_that_do_not_work_name_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    answers(monkeypatch, camera={"error": "no display"})
    text = " ".join(check.detail for check in doctor.checks(1))
    assert "apt install libegl1 libgl1-mesa-dri" in text
    assert "apt install libosmesa6" in text
    assert "TwoRoom, the demo and the tests do not" in text


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
    found = machine.probe("camera", environ={"MUJOCO_GL": "disable"})
    assert found["error"]


def test_import_sets_no_environment_variable() -> None:
    code = (
        "import os; before = dict(os.environ); import experiments.doctor; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
