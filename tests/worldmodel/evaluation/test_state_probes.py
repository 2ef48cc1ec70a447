"""Probes find what is in a latent, do not find what is not, and see held-out episodes only once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.worldmodel.evaluation.moving_point import episodes
from worldmodel.evaluation.state_probes import MLPProbeConfig, Targets, probe_states, varying_targets
from worldmodel.evaluation.trajectories import Trajectory

QUICK = MLPProbeConfig(hidden=64, lrs=[0.01], weight_decays=[0.0], steps=300)


def read(states: np.ndarray, frames: np.ndarray) -> torch.Tensor:
    """Latents that hold the row, and the column's square; nothing else."""
    centred = states / 10 - 1
    return torch.from_numpy(np.stack([centred[:, 0], centred[:, 1] ** 2], axis=1)).float()[:, None]


def with_noise(data: list[Trajectory]) -> list[Trajectory]:
    """A third dimension of the state, which no latent knows."""
    rng = np.random.default_rng(0)
    return [
        dataclasses.replace(e, states=np.column_stack([e.states, rng.normal(size=len(e.latents))]))
        for e in data
        if e.states is not None
    ]


TARGETS = Targets(
    ["row", "column squared", "noise"], lambda s: np.column_stack([s[:, 0], (s[:, 1] / 10 - 1) ** 2, s[:, 2]])
)


def test_what_is_there_is_read_and_what_is_not_is_not() -> None:
    data = with_noise(episodes(30, latents=read))
    found, answers = probe_states(data[:8], data[8:], TARGETS, QUICK)
    linear = found["linear"]["targets"]
    assert linear["row"]["r2"] > 0.999 and linear["row"]["pearson"] > 0.999
    assert linear["noise"]["r2"] < 0.1
    low, high = linear["row"]["interval"]
    assert low <= linear["row"]["r2"] <= high
    assert found["mlp"]["targets"]["column squared"]["r2"] > 0.95
    assert answers["truth"].shape == answers["mlp"].shape == (8 * 21, 3)
    assert np.allclose(answers["linear"][:, 0], answers["truth"][:, 0], atol=0.1)  # in the state's own units


def test_a_curve_needs_the_mlp() -> None:
    def bent(states: np.ndarray, frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(states / 10 - 1).float()[:, None]

    data = episodes(30, latents=bent)
    square = Targets(["square"], lambda s: (s[:, :1] / 10 - 1) ** 2)
    found, _ = probe_states(data[:8], data[8:], square, QUICK)
    assert found["mlp"]["r2_mean"] > 0.9 > found["linear"]["r2_mean"] + 0.2


def test_held_out_states_change_no_probe() -> None:
    data = with_noise(episodes(12, latents=read))
    changed = [dataclasses.replace(e, states=e.states + 5) for e in data[:3] if e.states is not None]
    first, answers = probe_states(data[:3], data[3:], TARGETS, QUICK)
    second, same = probe_states(changed, data[3:], TARGETS, QUICK)
    for kind in ("linear", "mlp"):
        assert np.array_equal(answers[kind], same[kind])
        assert first[kind]["chosen"] == second[kind]["chosen"]
    assert second["linear"]["targets"]["row"]["r2"] < first["linear"]["targets"]["row"]["r2"]


def test_dimensions_that_never_change_are_left_out() -> None:
    data = with_noise(episodes(3))
    still = [
        dataclasses.replace(e, states=np.column_stack([np.ones(21), e.states]))
        for e in data
        if e.states is not None
    ]
    found = varying_targets(still, ["one", "row"])
    assert found.names == ["row", "state 2", "state 3"]
    assert found.of(np.arange(8.0).reshape(2, 4)).tolist() == [[1, 2, 3], [5, 6, 7]]
    constant = [dataclasses.replace(e, states=np.ones((21, 2))) for e in data]
    with pytest.raises(ValueError, match="ever changes"):
        varying_targets(constant)
    with pytest.raises(ValueError, match="no states"):
        varying_targets([dataclasses.replace(e, states=None) for e in data])


def test_states_that_are_not_finite_are_an_error() -> None:
    data = with_noise(episodes(4, latents=read))
    assert data[0].states is not None
    data[0].states[3, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        probe_states(data[:2], data[2:], TARGETS, QUICK)
