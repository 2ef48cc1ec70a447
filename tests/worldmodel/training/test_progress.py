"""What a training says: its size beforehand, its speed, rows for wandb; and how its state is spaced and stopped."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from worlds import Distillation, Draw, draw, losses, state, train

from worldmodel.objectives.base import Batch
from worldmodel.training.estimate import estimate
from worldmodel.training.interrupt import SIGNALS, stop_signals
from worldmodel.training.loop import LoopConfig, fit
from worldmodel.training.parallel import spread
from worldmodel.training.progress import _duration
from worldmodel.training.run import Run, read_metrics
from worldmodel.training.sinks import LogConfig, WandbSink
from worldmodel.training.states import States


def test_the_estimate_counts_what_autograd_really_saves() -> None:
    replica, batch = spread(Distillation(), "ddp"), draw(0)
    size = estimate(replica, batch, "fp32")
    assert size.trained == sum(p.numel() for p in replica.objective.parameters() if p.requires_grad)
    assert size.frozen == sum(p.numel() for p in replica.objective.target.parameters())
    assert size.state == 16 * size.trained + 4 * size.frozen
    weights = {p.untyped_storage().data_ptr() for p in replica.objective.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = replica.entry(batch)
    assert size.activations == sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert kept["loss"].requires_grad
    assert estimate(replica, batch, "fp32", shards=4).state == size.state // 4


def test_an_objective_that_looks_at_values_is_estimated_without_activations() -> None:
    class Looks(Distillation):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            assert float(batch.views[0].sum()) < 1e9
            return super().forward(batch)

    size = estimate(spread(Looks(), "ddp"), draw(0), "fp32")
    assert size.activations is None
    assert "and activations" in str(size)


def test_lines_before_and_during_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def slow(step: int) -> Batch:
        time.sleep(0.25 if step > 3 else 0)
        return draw(step)

    with caplog.at_level(logging.INFO, "worldmodel"):
        train(tmp_path, slow, steps=14, accumulate=2)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("test: 106 parameters trained, 100 not (EMA, frozen); memory per process about")
    assert first.endswith("batch 8 = 2 x 4; 14 steps, fp32")
    assert "clips/s, " in second
    assert second.endswith(" s left")


def test_durations_are_short_to_read() -> None:
    found = [_duration(seconds) for seconds in (12.4, 100, 3700, 90_000, 400_000)]
    assert found == ["12 s", "2 min", "1 h 2 min", "1 d 1 h", "4 d 15 h"]


class FakeWandb:
    """Stands for the library; ``fails`` at a call by that name."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, []
        self.Settings = lambda **settings: settings

    def init(self, **settings: Any) -> FakeWandb:
        return self._call("init", settings)

    def log(self, row: dict[str, Any], step: int) -> None:
        self._call("log", (step, row))

    def finish(self, exit_code: int) -> None:
        self._call("finish", exit_code)

    def _call(self, name: str, what: Any) -> FakeWandb:
        if name == self.fails:
            raise SystemExit("not logged in") if name == "init" else RuntimeError("network\nis gone")
        self.calls.append((name, what))
        return self


def train_with_wandb(path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch, draw: Any = draw) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = Run(path, {"seed": 3}, LogConfig(wandb="true"))
    try:
        fit(
            Distillation(),
            draw,
            LoopConfig(steps=4, batch_size=8, log_every=1, precision="fp32"),
            run,
            "test",
        )
    finally:
        run.close()


def test_wandb_gets_every_row_and_a_resumed_training_continues_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = FakeWandb(), FakeWandb()
    with pytest.raises(KeyboardInterrupt):
        train_with_wandb(tmp_path, first, monkeypatch, Draw("stop", 1))
    train_with_wandb(tmp_path, second, monkeypatch)
    (_, begun), (_, continued) = first.calls[0], second.calls[0]
    assert begun["id"] == continued["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (begun["mode"], begun["resume"], begun["config"]) == ("offline", "allow", {"seed": 3})
    assert [what[0] for name, what in first.calls + second.calls if name == "log"] == [0, 1, 2, 3]
    assert first.calls[-1] == ("finish", 1)
    assert second.calls[-1] == ("finish", 0)


@pytest.mark.parametrize("fails", ["init", "log", "finish", "import"])
def test_nothing_that_fails_in_wandb_stops_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    fake = None if fails == "import" else FakeWandb(fails)  # None in sys.modules: cannot be imported
    train_with_wandb(tmp_path, fake, monkeypatch)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("no more metrics go to wandb: ")
    assert "\n" not in warnings[0]


def test_wandb_really_writes_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    sink = WandbSink(LogConfig(wandb="offline"), tmp_path, {"seed": 0})
    sink.log({"step": 0, "loss": 1.0})
    sink.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(
    ("given", "mode"), [("false", "off"), ("True", "offline"), ("online", "online"), ("off", "off")]
)
def test_modes_of_wandb(given: str, mode: str) -> None:
    assert LogConfig(wandb=given).wandb == mode
    with pytest.raises(ValueError, match="log.wandb='cloud'"):
        LogConfig(wandb="cloud")


def test_states_by_steps_and_never_more_than_a_share_of_the_time(tmp_path: Path) -> None:
    config = LoopConfig(checkpoint_steps=5, checkpoint_seconds=60.0)
    world: Any = SimpleNamespace(from_first=lambda work: work())
    states = States(SimpleNamespace(path=tmp_path), spread(Distillation(), "ddp"), None, config, world)  # type: ignore[arg-type]
    assert [step for step in range(1, 12) if states.due(step)] == [5, 10]
    states._saved -= 100.0
    assert states.due(1)
    states._cost = 10.0  # saving took 10 s: after 200 s at the earliest
    assert not states.due(1)


def test_any_signal_of_a_scheduler_saves_and_the_handlers_come_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for count, number in enumerate(SIGNALS, 1):

        def interrupted(step: int, count: int = count, number: int = number) -> Batch:
            if step == count:
                os.kill(os.getpid(), number)
            return draw(step)

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, interrupted, checkpoint_seconds=1e9)
        assert len(losses(tmp_path)) == count + 1
    assert [signal.getsignal(number) for number in SIGNALS] == before
    seen = []
    thread = threading.Thread(target=lambda: seen.append(stop_signals().__enter__().is_set()))
    thread.start()
    thread.join()
    assert seen == [False]


class Noisy(Distillation):
    """With dropout, whose masks a resumed run must draw again."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.dropout(self.head(self.encoder(batch.views[0]))).square().mean()}


def train_noisy(path: Path, draw: Any = draw, **settings: Any) -> None:
    torch.manual_seed(0)
    run = Run(path, {})
    try:
        fit(
            Noisy(),
            draw,
            LoopConfig(steps=8, batch_size=8, log_every=1, precision="fp32", **settings),
            run,
            "",
        )
    finally:
        run.close()


def test_a_resumed_run_drops_the_same_paths(tmp_path: Path) -> None:
    train_noisy(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_noisy(tmp_path / "parts", Draw("stop", 3))
    train_noisy(tmp_path / "parts")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    ours, wanted = state(tmp_path / "parts"), state(tmp_path / "whole")
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
