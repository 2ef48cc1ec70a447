"""Run directories, monitors and EMA."""

from __future__ import annotations

import errno
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from worldmodel.training import run
from worldmodel.training.ema import ema_update
from worldmodel.training.machine import choose_device, choose_precision
from worldmodel.training.monitors import effective_rank, feature_monitors
from worldmodel.training.run import Metrics, Run, config_hash, read_metrics


def test_another_configuration_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    Run(tmp_path, {"seed": 0, "loop": {"steps": 10, "lr": 0.1}}).close()
    Run(tmp_path, {"seed": 0, "loop": {"steps": 10, "lr": 0.1}}).close()
    with pytest.raises(ValueError, match=r"loop.steps=10, not 20; choose another out"):
        Run(tmp_path, {"seed": 0, "loop": {"steps": 20, "lr": 0.1}})


def test_two_processes_cannot_work_in_one_directory(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    with pytest.raises(OSError, match="another process is working in"):
        Run(tmp_path, {})
    run.close()
    Run(tmp_path, {}).close()


def test_a_file_system_without_locks_is_a_warning_and_not_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")  # Lustre, mounted without flock

    monkeypatch.setattr("fcntl.flock", refuse)
    Run(tmp_path, {"seed": 0}).close()
    assert f"no files can be locked in {tmp_path}" in caplog.text


def test_where_there_is_no_fcntl_runs_are_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows. Executed anew, so that nobody else's ``Run`` is replaced."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    module = runpy.run_path(run.__file__)
    assert module["fcntl"] is None
    module["Run"](tmp_path, {"seed": 0}).close()


def test_what_was_chosen_once_stays_chosen(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    assert run.choose("threads", lambda: 3) == 3
    run.close()
    again = Run(tmp_path, {})
    assert again.choose("threads", lambda: 5) == 3
    again.close()


def test_seconds_add_up_over_interruptions(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    run._spent = 100.0
    run.record_seconds()
    run.close()
    again = Run(tmp_path, {})
    again.finish({"steps": 3})
    assert again.done is not None
    assert again.done["steps"] == 3
    assert 100 <= again.done["seconds"] < 110
    again.close()


def test_resumed_metrics_have_no_row_twice_and_survive_a_cut_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    metrics = Metrics(file)
    for step in range(5):
        metrics.log({"step": step, "loss": 1.0})
    metrics.close()
    with open(file, "a") as cut:
        cut.write('{"step": 5, "lo')
    resumed = Metrics(file, resume_step=3)
    resumed.log({"step": 3, "loss": 2.0})
    resumed.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(file)] == [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
    ]


def test_config_hash_names_content_not_order() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_effective_rank_of_known_spectra() -> None:
    generator = torch.Generator().manual_seed(0)
    isotropic = torch.randn(20_000, 6, generator=generator)
    assert effective_rank(isotropic) == pytest.approx(6, abs=0.05)
    line = torch.randn(1000, 1, generator=generator) * torch.ones(6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(100, 6)) == pytest.approx(1, abs=0.01)
    # The mean does not count.
    assert effective_rank(isotropic + 100) == pytest.approx(6, abs=0.05)


def test_clip_rank_sees_that_only_positions_are_left() -> None:
    positions = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0))
    figures = feature_monitors(positions.expand(50, -1, -1))
    assert figures["token_rank"] > 10
    assert figures["clip_rank"] < 1.1


def test_ema_moves_all_parameters() -> None:
    average, online = nn.Linear(3, 2), nn.Linear(3, 2)
    wanted = [0.9 * a + 0.1 * b for a, b in zip(average.parameters(), online.parameters(), strict=True)]
    ema_update(average, online, 0.9)
    for ours, theirs in zip(average.parameters(), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_devices_and_precision() -> None:
    assert choose_precision("fp32", "cpu") == "fp32"
    assert choose_precision("auto", "cpu") in ("fp32", "bf16")
    with pytest.raises(ValueError, match="device='tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(ValueError, match="no GPU"):
            choose_device("cuda")
