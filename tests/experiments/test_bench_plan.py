"""The benchmark of planning: all rows at a tiny size, the other library's side, and mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from experiments import bench_plan
from experiments.bench_plan import PlanBench, make_predictor, measure, measure_peer, recomputed
from experiments.cli import main
from planners.cem import CEMConfig
from planners.mppi import MPPIConfig

CEM = CEMConfig(samples=6, elites=2, iterations=1, horizon=4, action_block=2)


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        "planner.samples=4",
        "planner.elites=2",
        "planner.iterations=1",
        "planner.horizon=2",
        "repeats=1",
    ]
    assert main(["bench", "what=[plan]", *settings, "plan.environments=[2]", "plan.precisions=[fp32]"]) == 0
    printed = capsys.readouterr().out
    for row in (
        "ms per decision, 8 environments",
        "s per solve, p95, 2 environments, 1 tokens, fp32",
        "own share",
    ):
        assert row in printed


def test_patches_are_also_timed_beside_a_rollout_that_recomputes() -> None:
    figures = measure(
        PlanBench(environments=[1], tokens=[4], precisions=["bf16"], memory=0.001), CEM, repeats=1
    )
    assert any("faster than recomputing the window" in row for row in figures)
    assert all(value >= 0 for value in figures.values())


@pytest.mark.parametrize("window", [0, 8])
def test_what_is_compared_is_the_same(window: int) -> None:
    dynamics = make_predictor(PlanBench(window=window), 4, block=2)
    assert dynamics.context == (window or 3)
    context, past = torch.randn(2, 2, 4, dynamics.width), torch.randn(2, 1, 2, 2)
    plans = torch.randn(2, 3, 4, 2, 2)
    with torch.no_grad():
        expected = dynamics.rollout(context, past, plans)
        torch.testing.assert_close(recomputed(dynamics, context, past, plans), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("peer", bench_plan.PEERS)
def test_the_other_side(peer: str) -> None:
    pytest.importorskip(peer.replace("-", "_"))
    figures = measure_peer(peer, "", PlanBench(predictor="lewm"), CEM, repeats=1)
    assert any("largest difference" in row for row in figures)
    assert any(row.endswith(f"{peer}'s") for row in figures)


def test_a_missing_library_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["bench", "what=[plan]", "against=[torch-world]", "repeats=1"]
    assert main([*small, f"peer_python={tmp_path / 'none'}"]) == 2
    assert "cannot be run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="install torch-world there"):
        measure_peer(
            "torch-world",
            "/bin/false" if Path("/bin/false").exists() else sys.executable,
            PlanBench(),
            CEM,
            1,
        )
    with pytest.raises(ValueError, match="planner=cem"):
        measure_peer("torch-world", "", PlanBench(), MPPIConfig(), 1)
    assert main(["bench", "what=[plan]", "plan.predictor=large"]) == 2
    assert "small, lewm" in capsys.readouterr().err
