"""The command line in several processes: torchrun, and Slurm through submitit's local executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import UsageError
from experiments.slurm import Config, outcome, run
from worldmodel.data.episodes import EpisodeWriter
from worldmodel.training.run import read_metrics

SIZE = ["encoder.width=24", "encoder.depth=1", "encoder.heads=1", "predictor.width=12", "predictor.depth=1"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny pretraining on eight episodes."""
    data = tmp_path_factory.mktemp("data")
    writer = EpisodeWriter(data, {"env_id": "fake", "action_low": [-1.0], "action_high": [1.0]})
    for index in range(8):
        rng = np.random.default_rng(index)
        frames = rng.integers(0, 256, (9, 3, 64, 64), dtype=np.uint8)
        writer.write(index, {"frames": frames, "actions": np.zeros((8, 1, 1), np.float32)})
    loop = ["loop.batch_size=4", "loop.precision=fp32", "loop.log_every=1"]
    return [f"data={data}", "threads=1", "report=false", "predictor.heads=1", *SIZE, *loop]


def test_torchrun_says_an_error_of_the_user_once(job: list[str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "experiments.pretrain", *job, f"out={tmp_path}", "loop.batch_size=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("worldmodel pretrain: error:")]
    assert len(lines) == 1, done.stderr
    assert "loop.batch_size=3 cannot be shared by 2 processes" in lines[0]
    assert 'File "' not in done.stderr.partition("torch/distributed/elastic")[0]  # no traceback of ours


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes through /proc")
def test_a_job_that_is_given_notice_saves_and_is_queued_again(job: list[str], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    out = tmp_path / "run"
    steps = ["loop.steps=150", f"out={out}", "loop.checkpoint_seconds=1000"]
    config = Config(
        command=" ".join(["pretrain", *job, *steps]),
        logs=str(tmp_path / "logs"),
        gpus_per_node=0,
        tasks_per_node=2,
        cluster="local",
    )
    submitted = run(config)
    assert str(submitted.job_id) in outcome(submitted)
    wait(lambda: (out / "metrics.jsonl").exists() and len(read_metrics(out / "metrics.jsonl")) > 3)
    first_attempt = children(int(submitted.job_id))
    for pid in first_attempt:
        os.kill(pid, signal.SIGUSR2)
    submitted.wait()
    log = Path(submitted.paths.stdout).read_text() + Path(submitted.paths.stderr).read_text()
    assert "Requeued job" in log, log
    assert "step " in log.rpartition("Requeued job")[2], log  # it continued from a step
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == list(range(150))
    assert (out / "done.json").exists(), log
    assert len(first_attempt) == 2


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": "pretrain loop.stepz=3"}, "unknown key loop.stepz"),
        ({"command": "pretrane data=x"}, "is no job"),
        ({"command": ""}, "is no job"),
        ({"command": "collect", "tasks_per_node": 2}, "collect runs in one process"),
        ({"command": "pretrain data=x", "nodes": 2}, "submit from a login node"),
    ],
)
def test_a_mistake_is_found_before_the_job_is_queued(
    tmp_path: Path, settings: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=message):
        run(Config(logs=str(tmp_path), **settings))  # type: ignore[arg-type]


def test_bad_settings_of_a_submission_are_refused() -> None:
    for bad in ({"nodes": 0}, {"hours": 0.0}, {"cluster": "cloud"}, {"restarts": -1}):
        with pytest.raises(ValueError):
            Config(command="pretrain", **bad)  # type: ignore[arg-type]


def test_a_world_model_trains_in_two_processes_as_in_one(job: list[str], tmp_path: Path) -> None:
    """SIGReg and BatchNorm see the whole batch, so the losses are the same; each process encodes nothing twice."""
    data = job[0]
    common = [
        data,
        "variant=untrained",
        "threads=1",
        "window=3",
        "head.per_token=4",
        "head.hidden=16",
        "held_out=0.2",
    ]
    loop = ["loop.steps=4", "loop.batch_size=8", "loop.precision=fp32", "loop.log_every=1"]
    losses = []
    for count in (1, 2):
        out = tmp_path / f"of_{count}"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        command = [*torchrun, "-m", "experiments.train", *common, *loop, *SIZE[:3], f"out={out}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        losses.append([row["loss"] for row in read_metrics(out / "metrics.jsonl")])
        assert (out / "model" / "config.json").exists() and not (out / "latents").exists()
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
