"""World models in two processes: losses and gradients of the whole batch in one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for the processes that are started, too

from worlds import run

from tests.worldmodel.objectives.shares import TERMS, norm_layer, objective, term, training

EVERYTHING: dict[str, Any] = {
    "sigreg": 0.1,
    "sigreg_per_step": True,
    "variance": 3.0,
    "covariance": 2.0,
    "inverse_dynamics": 0.5,
    "time_similarity": 0.5,
    "time_variance": 0.5,
    "straightening": 0.5,
    "inverse_hidden": 8,
    "rollout_context": 0,
    "rollout_steps": 2,
    "rollout_gradient": "stop",
    "loss": "smooth_l1",
}


def assert_equal(two: list[list[float]], one: list[float]) -> None:
    """Losses within 1e-5; cosine of gradients above 0.9999, and their lengths within 1e-4."""
    for found in two:
        ours, wanted = torch.tensor(found), torch.tensor(one)
        assert ours[0] == pytest.approx(float(wanted[0]), abs=1e-5, rel=1e-5)
        assert torch.cosine_similarity(ours[1:], wanted[1:], dim=0) > 0.9999
        assert float(ours[1:].norm()) == pytest.approx(float(wanted[1:].norm()), rel=1e-4)


@pytest.mark.parametrize("name", TERMS)
def test_terms_and_their_gradients(name: str) -> None:
    assert_equal(run(2, term, name), term(name))


@pytest.mark.parametrize(("affine", "length"), [(False, 1), (True, 1), (True, 3)])
def test_batch_norm(affine: bool, length: int) -> None:
    wanted = norm_layer(affine, length)
    for found in run(2, norm_layer, affine, length):
        assert found == pytest.approx(wanted, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_whole_objective_from_pixels(settings: dict[str, Any]) -> None:
    assert_equal(run(2, objective, settings), objective(settings))


def test_statistics_of_a_share_would_be_another_loss() -> None:
    """The control: with the ordinary batch norm, two processes minimise something else."""
    found, wanted = (torch.tensor(x[1:]) for x in (run(2, objective, {}, "own")[0], objective({}, "own")))
    assert torch.cosine_similarity(found, wanted, dim=0) < 0.999


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_training(strategy: str) -> None:
    alone = training(EVERYTHING, "ddp")
    for found in run(2, training, EVERYTHING, strategy):
        assert found == pytest.approx(alone, rel=1e-4)
