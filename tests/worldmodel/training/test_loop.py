"""The loop: resuming equals never having stopped; what goes wrong is said clearly."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.objectives.base import Batch, Objective
from worldmodel.training.checkpoint import load_training_state, save_training_state
from worldmodel.training.loop import LoopConfig, fit, make_optimizer
from worldmodel.training.run import Run
from worldmodel.training.schedules import warmup_cosine


class Regression(Objective):
    """A tiny objective with EMA weights and a BatchNorm, so that all kinds of state are there."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))
        self.average = nn.Linear(4, 8).requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.views[0]
        return {"loss": (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()}

    def after_step(self, progress: float) -> None:
        self.average.weight.lerp_(self.net[0].weight.detach(), 0.1 * progress)


DRAWN: list[int] = []


def draw(step: int) -> Batch:
    DRAWN.append(step)
    return Batch(step, range(8), (torch.randn(8, 4, generator=torch.Generator().manual_seed(step)),))


def train(path: Path, steps: int = 30, **settings: object) -> Regression:
    torch.manual_seed(0)
    objective = Regression()
    run = Run(path, {})
    try:
        fit(objective, draw, LoopConfig(steps=steps, batch_size=8, log_every=1, **settings), run, "test")  # type: ignore[arg-type]
    finally:
        run.close()
    return objective


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", precision="fp32")
    calls = []

    def interrupted(self: Regression, progress: float) -> None:
        Regression.after_step_original(self, progress)  # type: ignore[attr-defined]
        calls.append(progress)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Regression, "after_step_original", Regression.after_step, raising=False)
    monkeypatch.setattr(Regression, "after_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", precision="fp32")
    monkeypatch.undo()
    DRAWN.clear()
    resumed = train(tmp_path / "parts", precision="fp32")
    assert list(range(13, 30)) == DRAWN  # it went on; beginning again would give the same bits
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [
        [json.loads(line) for line in (tmp_path / d / "metrics.jsonl").open()] for d in ("whole", "parts")
    ]
    assert [row["step"] for row in rows[1]] == list(range(30))
    assert rows[0] == rows[1]


def test_kill_9_at_any_moment_then_resume_gives_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import importlib.util, sys\nfrom pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('loop_test', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "module.train(Path(sys.argv[1]), steps=400, checkpoint_seconds=0.0, precision='fp32')\n"
    )
    killed = subprocess.Popen([sys.executable, str(script), str(tmp_path / "killed")])
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed/state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not list((tmp_path / "killed").glob("model*"))
    subprocess.run([sys.executable, str(script), str(tmp_path / "killed")], check=True)
    subprocess.run([sys.executable, str(script), str(tmp_path / "whole")], check=True)
    a, b = ((tmp_path / d / "state.safetensors").read_bytes() for d in ("killed", "whole"))
    assert a == b


def test_a_state_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    objective = Regression()
    optimizer = make_optimizer(objective, LoopConfig())
    save_training_state(tmp_path / "state", objective, optimizer, 3)
    other = Regression()
    other.net[0] = nn.Linear(4, 9)
    with pytest.raises(ValueError, match=r"net.0.weight has shape \(8, 4\) instead of \(9, 4\)"):
        load_training_state(tmp_path / "state", other, make_optimizer(other, LoopConfig()))
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        load_training_state(tmp_path / "state", objective, optimizer)


def test_a_state_with_half_of_an_optimiser_is_refused(tmp_path: Path) -> None:
    train(tmp_path, steps=2, precision="fp32")
    path = tmp_path / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    moment = tensors.pop("optimizer.net.0.weight.exp_avg_sq")
    save_file(tensors, path, metadata=meta)
    with pytest.raises(ValueError, match=r"does not fit .*: optimizer.net.0.weight.exp_avg_sq is missing"):
        train(tmp_path, precision="fp32")
    extra = {"optimizer.net.0.weight.exp_avg_sq": moment, "optimizer.other.step": moment.clone()}
    save_file({**tensors, **extra}, path, metadata=meta)
    with pytest.raises(ValueError, match="optimizer.other.step is unexpected"):
        train(tmp_path, precision="fp32")


def test_a_parameter_that_has_had_no_gradient_yet_is_no_obstacle(tmp_path: Path) -> None:
    objective = Regression()
    objective.spare = nn.Linear(2, 2)
    optimizer = make_optimizer(objective, LoopConfig())
    objective(draw(0))["loss"].backward()
    optimizer.step()
    save_training_state(tmp_path / "state", objective, optimizer, 1)
    assert load_training_state(tmp_path / "state", objective, make_optimizer(objective, LoopConfig())) == 1


def test_a_full_disk_while_saving_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Regression()
    optimizer = make_optimizer(objective, LoopConfig())
    save_training_state(tmp_path / "state", objective, optimizer, 3)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*state"):
        save_training_state(tmp_path / "state", objective, optimizer, 4)
    monkeypatch.undo()
    assert load_training_state(tmp_path / "state", objective, optimizer) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Regression,
        "forward",
        lambda self, batch: {"loss": self.net[0].weight.sum() * (float("nan") if batch.step == 4 else 1)},
    )
    with pytest.raises(ValueError, match=r"step 4 .* samples 0 to 7; no training state"):
        train(tmp_path, precision="fp32")


@pytest.mark.parametrize("step", [4, 29])
def test_gradients_that_are_not_finite_stop_before_they_reach_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A finite loss with NaN gradients made all weights NaN, saved them, and ended without an error."""

    def forward(self: Regression, batch: Batch) -> dict[str, Tensor]:
        loss = self.net[0].weight.square().sum()
        bad = (self.net[0].weight[0, 0] * 0).sqrt()  # 0, with an infinite slope
        return {"loss": loss + bad if batch.step == step else loss}

    monkeypatch.setattr(Regression, "forward", forward)
    with pytest.raises(ValueError, match=f"not finite at step {step}"):
        train(tmp_path, precision="fp32", checkpoint_seconds=0.0)
    objective = Regression()
    assert (
        load_training_state(
            tmp_path / "state.safetensors", objective, make_optimizer(objective, LoopConfig())
        )
        == step
    )
    assert all(torch.isfinite(p).all() for p in objective.parameters())


def test_only_matrices_are_decayed() -> None:
    objective = Regression()
    decayed, free = make_optimizer(objective, LoopConfig(weight_decay=0.1)).param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert len(decayed["params"]) == 2
    assert len(free["params"]) == 4


def test_schedule_values() -> None:
    assert warmup_cosine(0, 100, 1.0, 10) == pytest.approx(0.1)
    assert warmup_cosine(9, 100, 1.0, 10) == pytest.approx(1.0)
    assert warmup_cosine(10, 100, 1.0, 10) == pytest.approx(1.0)
    assert warmup_cosine(55, 100, 1.0, 10, final=0.2) == pytest.approx(0.6)
    assert warmup_cosine(100, 100, 1.0, 10, final=0.2) == pytest.approx(0.2)
    assert warmup_cosine(0, 10, 1.0, 0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"lr": 0.0},
        {"precision": "fp16"},
        {"batch_size": 0},
        {"clip_norm": -1.0},
        {"warmup": 2.0},
    ],
)
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="loop"):
        LoopConfig(**bad)
