"""What iCEM and MPPI do of their own: coloured noise, a memory, fewer samples; weights. Against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from planners.base import Bounds
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig, path_weights
from planners.noise import colour

FREE = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
ZERO, ONE = torch.zeros(1), torch.ones(1)


class Recorder:
    def __init__(self) -> None:
        self.plans: list[Tensor] = []
        self.costs: list[Tensor] = []

    def __call__(self, plans: Tensor) -> Tensor:
        costs = (plans - 0.7).square().sum(dim=(2, 3, 4))
        self.plans.append(plans.clone())
        self.costs.append(costs.clone())
        return costs


# Noise


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 12, 60])
def test_every_step_of_coloured_noise_has_unit_variance(steps: int, exponent: float) -> None:
    root = colour(steps, exponent)
    covariance = (root @ root.T).numpy()
    np.testing.assert_allclose(np.diag(covariance), 1, atol=1e-4)
    if exponent == 0:
        np.testing.assert_allclose(covariance, np.eye(steps), atol=1e-5)


def test_larger_exponents_are_smoother_and_the_ends_are_no_neighbours() -> None:
    lag, ends = [], []
    for exponent in (0.0, 1.0, 2.0, 4.0):
        covariance = colour(30, exponent) @ colour(30, exponent).T
        lag.append(float(covariance.diagonal(1).mean()))
        ends.append(float(covariance[0, -1]))
    assert lag == sorted(lag) and lag[0] < 1e-5 and lag[2] > 0.8
    assert ends[2] < 0 < lag[2]


def test_the_power_falls_as_it_should() -> None:
    noise = (colour(400, 2.0) @ torch.randn(400, 500, generator=torch.Generator().manual_seed(0))).numpy()
    power = (np.abs(np.fft.rfft(noise * np.hanning(400)[:, None], axis=0)) ** 2).mean(axis=1)
    slope = np.polyfit(np.log(np.arange(8, 80)), np.log(power[8:80]), 1)[0]
    assert -2.3 < slope < -1.7


# iCEM


def test_elites_mean_and_std_are_exact_with_the_remembered_ones_among_them() -> None:
    config = ICEMConfig(40, 3, elites=6, horizon=5, decay=1.25, keep=0.5, momentum=0.25, min_std=0.4)
    recorder = Recorder()
    plan = ICEM(config).plan(recorder, FREE, ZERO, ONE, seeds=[0])
    assert [plans.shape[1] for plans in recorder.plans] == [40, 32, 26, 1]
    known, costs, mean, std = np.empty((0, 5)), np.empty(0), np.zeros(5), np.ones(5)
    floors = 0
    for index in range(3):
        known = np.concatenate([recorder.plans[index][0, :, :, 0, 0].numpy(), known])
        costs = np.concatenate([recorder.costs[index][0].numpy(), costs])
        order = np.argsort(costs, kind="stable")
        mean = 0.25 * mean + 0.75 * known[order[:6]].mean(axis=0)
        std = 0.25 * std + 0.75 * known[order[:6]].std(axis=0)
        floors += int((std < 0.4).sum())
        std = np.maximum(std, 0.4)
        np.testing.assert_allclose(recorder.plans[index + 1][0, 0, :, 0, 0].numpy(), mean, atol=1e-5)
        np.testing.assert_allclose(plan.trace[index].spread[0, :, 0, 0].numpy(), std, atol=1e-5)
        known, costs = known[order[:3]], costs[order[:3]]
    assert 0 < floors < 15  # some steps reached the floor, and some did not


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_the_next_candidates_spread_as_the_trace_says(exponent: float) -> None:
    config = ICEMConfig(4000, 2, elites=50, horizon=5, colour=exponent, decay=1.0)
    recorder = Recorder()
    plan = ICEM(config).plan(recorder, FREE, ZERO, ONE, seeds=[0])
    assert (plan.trace[0].spread < 0.9).all()
    spread = recorder.plans[1][0, 1:].std(dim=0)
    torch.testing.assert_close(spread, plan.trace[0].spread[0], rtol=0.05, atol=0)


def test_samples_fall_to_twice_the_elites() -> None:
    recorder = Recorder()
    ICEM(ICEMConfig(40, 8, elites=10, horizon=2, decay=2.0)).plan(recorder, FREE, ZERO, ONE, seeds=[0])
    assert [plans.shape[1] for plans in recorder.plans] == [40, 20, 20, 20, 20, 20, 20, 20, 1]


def test_what_it_remembers_are_the_best_of_all_candidates() -> None:
    recorder = Recorder()
    planner = ICEM(ICEMConfig(30, 4, elites=6, horizon=3, keep=0.5))
    plan = planner.plan(recorder, FREE, ZERO, ONE, seeds=[0, 1])
    assert planner.memory == 3 and plan.elites is not None
    every, costs = torch.cat(recorder.plans[:-1], dim=1), torch.cat(recorder.costs[:-1], dim=1)
    best = costs.argsort(dim=1)[:, :3]
    assert torch.equal(plan.elites, torch.stack([one[rows] for one, rows in zip(every, best, strict=True)]))


def test_no_memory_means_none() -> None:
    planner = ICEM(ICEMConfig(30, 2, elites=6, horizon=3))
    plan = planner.plan(Recorder(), FREE, ZERO, ONE, seeds=[0])
    assert planner.memory == 0 and plan.elites is None


# MPPI


def test_weights_are_exponentials_of_the_cost_in_units_of_the_gap_to_the_median() -> None:
    costs = torch.tensor([[3.0, 1.0, 2.0, 5.0, torch.inf], [7.0] * 5, [torch.inf] * 5])
    weights = path_weights(costs, 0.5)
    expected = np.exp(-np.array([2.0, 0.0, 1.0, 4.0]) / (0.5 * 1.0))  # the lower median of 1, 2, 3, 5 is 2
    np.testing.assert_allclose(weights[0, :4].numpy(), expected, rtol=1e-6)
    assert weights[0, 4] == 0 and (weights[1] == 1).all() and (weights[2] == 0).all()


@pytest.mark.parametrize("scale, offset", [(1000.0, 0.0), (1e-3, 0.0), (1.0, 1e3), (-0.0 + 2.0, -50.0)])
def test_weights_depend_neither_on_the_unit_of_the_cost_nor_on_its_offset(
    scale: float, offset: float
) -> None:
    costs = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(path_weights(costs * scale + offset, 0.1), path_weights(costs, 0.1))


def test_a_very_bad_candidate_does_not_make_the_others_alike() -> None:
    costs = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    worse = costs.clone()
    worse[0, costs[0].argmax()] = 1e6
    torch.testing.assert_close(path_weights(worse, 0.1), path_weights(costs, 0.1), atol=1e-6, rtol=1e-3)


def test_a_low_temperature_follows_the_best_and_a_high_one_the_mean() -> None:
    means = []
    for temperature in (1e-6, 1e6):
        recorder = Recorder()
        MPPI(MPPIConfig(50, 1, 4, temperature=temperature)).plan(recorder, FREE, ZERO, ONE, seeds=[0])
        best = recorder.plans[0][:, recorder.costs[0][0].argmin()]
        means.append((recorder.plans[1][:, 0], best, recorder.plans[0].mean(dim=1)))
    torch.testing.assert_close(means[0][0], means[0][1])
    torch.testing.assert_close(means[1][0], means[1][2], atol=1e-4, rtol=1e-4)


def test_the_next_mean_is_the_weighted_mean() -> None:
    recorder = Recorder()
    MPPI(MPPIConfig(50, 2, 4, temperature=0.3)).plan(recorder, FREE, ZERO, ONE, seeds=[0, 1])
    for index in range(2):
        plans, costs = recorder.plans[index].double().numpy(), recorder.costs[index].double().numpy()
        best, middle = costs.min(axis=1, keepdims=True), np.sort(costs, axis=1)[:, 24:25]
        weights = np.exp(-(costs - best) / (0.3 * (middle - best)))
        mean = np.einsum("es,es...->e...", weights / weights.sum(axis=1, keepdims=True), plans)
        np.testing.assert_allclose(recorder.plans[index + 1][:, 0].numpy(), mean, atol=1e-5)
