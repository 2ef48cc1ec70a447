"""The benchmark of training steps: what it counts, what it is held against, and what it says when memory ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments import bench_step
from experiments.bench_step import WARM_UP, StepBench, measure, stated_peak
from experiments.bench_upstream import MASKS
from experiments.cli import main
from worldmodel.masks import token_counts
from worldmodel.models.flops import training_flops
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoderConfig

ENCODER = VideoEncoderConfig(image_size=32, frames=4, patch_size=8, width=24, depth=1, heads=2)
PREDICTOR = MaskedPredictorConfig(width=24, depth=1, heads=2)
SMALL = ["image_size=32", "frames=4", "patch_size=8", "width=24", "depth=1", "heads=2"]


def small(**settings: Any) -> StepBench:
    given = {
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 2,
        "repeats": 2,
        "compile": False,
        **settings,
    }
    return StepBench(ENCODER, PREDICTOR, **given)


def test_figures_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"encoder.{setting}" for setting in SMALL] + ["predictor.depth=1", "predictor.width=24"]
    settings = [
        "batch_size=2",
        "repeats=2",
        "compile=false",
        "peak_tflops=0.5",
        f"out={tmp_path}/figures.json",
    ]
    assert main(["bench", "what=[step]", *given, "predictor.heads=2", *settings]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "model-FLOPs utilisation" in capsys.readouterr().out
    counts = [token_counts(mask, ENCODER.grid) for mask in MASKS.values()]
    flops = training_flops(ENCODER, PREDICTOR, counts)
    assert figures["step: GFLOP of the model per clip"] == pytest.approx(flops / 1e9)
    assert figures["step: peak TFLOP/s, as given"] == 0.5
    rate = figures["step, eager: clips/s"]
    assert rate == pytest.approx(2 / figures["step, eager: seconds per step"])
    assert figures["step, eager: TFLOP/s"] == pytest.approx(rate * flops / 1e12)
    assert figures["step, eager: model-FLOPs utilisation, %"] == pytest.approx(rate * flops / 0.5e10)
    assert 0.05 < figures["step, eager: max RSS of the process, GiB"] < 100
    assert not [name for name in figures if name.startswith("step, compiled")]


def test_without_and_with_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are the loop's own steps; only the second has its blocks compiled, each of them."""
    compiled: list[int] = []
    steps: list[tuple[int, bool]] = []
    real = bench_step.train_step

    def recorded(replica: Any, optimizer: Any, batch: Any, config: Any) -> dict[str, float]:
        steps.append((batch.step, bool(compiled)))
        return real(replica, optimizer, batch, config)

    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(1))
    monkeypatch.setattr(bench_step, "train_step", recorded)
    figures = measure(small(compile=True, precision="bf16"))
    count = WARM_UP + 2
    assert steps == [(step, later) for later in (False, True) for step in range(count)]
    assert len(compiled) == 3  # encoder, EMA encoder and predictor have a block each
    for name in (
        "step, eager: clips/s",
        "step, compiled: clips/s",
        "step: peak TFLOP/s, matmul measured in bf16",
    ):
        assert figures[name] > 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert stated_peak(name) == peak


def test_a_batch_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"encoder.{setting}" for setting in SMALL]
    assert main(["bench", "what=[step]", *given, "batch_size=100000000000"]) == 2  # more than addresses reach
    printed = capsys.readouterr().err
    assert "batch_size=100000000000 does not fit into the memory of this CPU" in printed
    assert printed.count("\n") == 1

    def full(*_: Any) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench_step, "train_step", full)
    with pytest.raises(ValueError, match="batch_size=2 does not fit .* choose a smaller batch_size"):
        measure(small())


def test_what_is_no_lack_of_memory_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(bench_step, "train_step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(small())
    monkeypatch.setattr(bench_step, "train_step", lambda *_: {"loss": float("nan"), "grad_norm": 1.0})
    with pytest.raises(ValueError, match="not finite at step 0"):
        measure(small())
