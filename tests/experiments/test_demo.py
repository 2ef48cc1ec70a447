"""The road end to end, small: interrupted or not, it ends with the same models and the same outcomes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ["episodes=24", "pretrain_steps=12", "train_steps=12", "end_to_end_steps=6", "tasks=2"]


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.demo", *SMALL, f"out={out}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fingerprint(out: Path) -> dict[str, object]:
    """What must not depend on interruptions: data, weights, outcomes, and the report's numbers."""
    found: dict[str, object] = {
        str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("model/*.safetensors"))
    }
    found["data"] = (out / "data/manifest.jsonl").read_bytes()
    for file in sorted(out.glob("plan_*/results.json")):
        tasks = json.loads(file.read_text())["tasks"]
        found[file.parent.name] = [
            {k: v for k, v in task.items() if k != "seconds_per_decision"} for task in tasks
        ]
    for file in sorted(out.glob("*/metrics.jsonl")):
        found[str(file.relative_to(out))] = file.read_text()
    found["summary"] = json.loads((out / "summary.json").read_text())["policies"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted demo and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "demo"
    process = start(out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return out, text


def test_it_writes_what_it_promises(whole: tuple[Path, str]) -> None:
    out, text = whole
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["policies"]) == [
        "vjepa",
        "untrained_encoder",
        "end_to_end",
        "simulator",
        "random",
        "noop",
    ]
    assert all(
        set(row) == {"successes", "episodes"} and row["episodes"] == 2 for row in summary["policies"].values()
    )
    assert summary["policies"]["noop"]["successes"] == 0
    assert summary["minutes"]["total"] > 0
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    stages = json.loads((out / "stages.json").read_text())
    for stage in stages:
        assert f"{stage['name']:26}" in text
        assert stage["command"].startswith("worldmodel ")
    assert "through the door" in text


def test_killed_and_interrupted_anywhere_it_ends_with_the_same_bits(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    # Each stop waits for another stage's first trace, so that collecting, training and planning are all hit.
    stops = [
        ("data/manifest.jsonl", signal.SIGKILL),
        ("pretrain/metrics.jsonl", signal.SIGINT),
        ("train_vjepa/latents/manifest.jsonl", signal.SIGKILL),
        ("train_end_to_end/metrics.jsonl", signal.SIGKILL),
        ("plan_vjepa/episodes", signal.SIGKILL),
    ]
    for trace, number in stops:
        process = start(out)
        deadline = time.monotonic() + 120
        while not (out / trace).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (out / trace).exists()
        os.kill(process.pid, number)
        text, _ = process.communicate(timeout=60)
        if number == signal.SIGINT and process.returncode:
            assert process.returncode == 130, text
            assert "run the same command again to continue" in text
    first = (out / "data/episodes/000000.safetensors").stat().st_mtime_ns
    process = start(out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert (out / "data/episodes/000000.safetensors").stat().st_mtime_ns == first
    ours, wanted = fingerprint(out), fingerprint(whole[0])
    # The runs name their own directories (data=, model=), nothing else may differ.
    assert ours.keys() == wanted.keys()
    for key in wanted:
        assert ours[key] == wanted[key], f"{key} differs after interruptions"


def test_a_finished_demo_does_nothing_when_run_again(whole: tuple[Path, str]) -> None:
    out, _ = whole
    parts = ("*.safetensors", "*.npz", "tasks.jsonl", "metrics.jsonl", "done.json")
    files = [file for pattern in parts for file in out.rglob(pattern)]
    before = {file: file.stat().st_mtime_ns for file in files}
    process = start(out)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert {file: file.stat().st_mtime_ns for file in files} == before
