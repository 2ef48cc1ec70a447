"""CEM's own arithmetic, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from planners.base import Bounds
from planners.cem import CEM, CEMConfig, correlate, fit, lowest

BOUNDS = Bounds(torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([1.0, 2.0, torch.inf]))


def refit(plans: Tensor, costs: Tensor, elites: int) -> tuple[Tensor, Tensor, Tensor]:
    return fit(*lowest(plans, costs, elites, torch.arange(len(plans))[:, None]))


def numpy_refit(plans: np.ndarray, costs: np.ndarray, elites: int) -> tuple[np.ndarray, np.ndarray]:
    means, stds = [], []
    for plan, cost in zip(plans.astype(np.float64), costs, strict=True):
        order = [i for i in np.argsort(cost, kind="stable") if np.isfinite(cost[i])][:elites]
        means.append(plan[order].mean(axis=0))
        stds.append(plan[order].std(axis=0))  # population standard deviation, as numpy's default
    return np.stack(means), np.stack(stds)


@pytest.mark.parametrize("samples, elites", [(40, 7), (40, 40), (5, 1), (1, 1), (2, 2)])
def test_refit_is_the_elites_mean_and_population_std(samples: int, elites: int) -> None:
    generator = torch.Generator().manual_seed(samples + elites)
    plans = torch.randn(3, samples, 4, 2, 3, generator=generator)
    costs = torch.randn(3, samples, generator=generator)
    mean, std, cost = refit(plans, costs, elites)
    expected_mean, expected_std = numpy_refit(plans.numpy(), costs.numpy(), elites)
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std.numpy(), expected_std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        cost.numpy(), np.sort(costs.numpy(), axis=1)[:, :elites].mean(axis=1), rtol=1e-5
    )


def test_refit_uses_finite_costs_only() -> None:
    generator = torch.Generator().manual_seed(0)
    plans = torch.randn(3, 10, 4, 1, 2, generator=generator)
    costs = torch.randn(3, 10, generator=generator)
    costs[1, 2:] = torch.inf  # fewer finite than elites
    costs[2] = torch.inf
    mean, std, cost = refit(plans, costs, 4)
    expected_mean, expected_std = numpy_refit(plans[:2].numpy(), costs[:2].numpy(), 4)
    np.testing.assert_allclose(mean[:2].numpy(), expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std[:2].numpy(), expected_std, rtol=1e-5, atol=1e-6)
    assert cost[:2].isfinite().all() and cost[2] == torch.inf and (mean[2] == 0).all()


def test_refit_takes_the_earlier_candidate_on_a_tie() -> None:
    plans = torch.arange(6.0).view(1, 6, 1, 1, 1)
    mean, _, _ = refit(plans, torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]), 2)
    assert mean.item() == 1.5


def test_std_is_a_standard_deviation_not_a_variance() -> None:
    """Other planners mix the two up. The units tell them apart: twice the actions, twice the spread."""
    plans = torch.randn(1, 50, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    costs = torch.rand(1, 50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(refit(plans * 2, costs, 10)[1], refit(plans, costs, 10)[1] * 2)


class Recorder:
    def __init__(self) -> None:
        self.plans: list[Tensor] = []
        self.costs: list[Tensor] = []

    def __call__(self, plans: Tensor) -> Tensor:
        costs = (plans - 0.3).square().sum(dim=(2, 3, 4))
        self.plans.append(plans.clone())
        self.costs.append(costs.clone())
        return costs


def plan(config: CEMConfig, start: Tensor | None = None, seeds: tuple[int, ...] = (0, 1)) -> Recorder:
    recorder = Recorder()
    CEM(config).plan(recorder, BOUNDS, torch.zeros(3), torch.ones(3), seeds=seeds, start=start)
    return recorder


def test_the_next_mean_is_the_elites_mean() -> None:
    """The mean is the first candidate of every later iteration, and the last candidate of all."""
    recorder = plan(CEMConfig(samples=30, iterations=3, elites=6, horizon=5))
    assert [plans.shape[1] for plans in recorder.plans] == [30, 30, 30, 1]
    for before, after, costs in zip(recorder.plans, recorder.plans[1:], recorder.costs, strict=False):
        expected, _ = numpy_refit(before.numpy(), costs.numpy(), 6)
        np.testing.assert_allclose(after[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_momentum_mixes_the_old_mean_into_the_new() -> None:
    recorder = plan(CEMConfig(samples=30, iterations=1, elites=6, horizon=5, momentum=0.25))
    expected, _ = numpy_refit(recorder.plans[0].numpy(), recorder.costs[0].numpy(), 6)
    np.testing.assert_allclose(recorder.plans[1][:, 0].numpy(), 0.75 * expected, rtol=1e-5, atol=1e-6)


def test_later_candidates_spread_as_the_elites_do_but_not_less_than_the_floor() -> None:
    config = CEMConfig(samples=4000, iterations=2, elites=50, horizon=2, correlated=0.0)
    unbounded = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    for scale, floor in ((1.0, 0.0), (2.0, 0.4)):
        recorder = Recorder()
        CEM(CEMConfig(**{**config.__dict__, "min_std": floor})).plan(
            recorder, unbounded, torch.zeros(1), torch.tensor([scale]), seeds=[0]
        )
        _, elite_std = numpy_refit(recorder.plans[0].numpy(), recorder.costs[0].numpy(), 50)
        expected = np.maximum(elite_std, floor * scale)
        np.testing.assert_allclose(recorder.plans[1][:, 1:].std(dim=1).numpy(), expected, rtol=0.05)
    assert (elite_std < floor * scale).any()  # the floor was needed


@pytest.mark.parametrize("samples", [1, 8])
def test_the_start_is_a_candidate_of_the_first_iteration(samples: int) -> None:
    start = torch.rand(2, 5, 1, 3)
    recorder = plan(CEMConfig(samples=samples, iterations=1, elites=1, horizon=5), start)
    assert torch.equal(recorder.plans[0][:, 0], start)


def test_after_an_iteration_of_failures_the_search_goes_on_as_it_was() -> None:
    config = CEMConfig(samples=500, iterations=2, elites=10, horizon=3, correlated=0.0)
    unbounded = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    asked: list[Tensor] = []

    def cost(plans: Tensor) -> Tensor:
        asked.append(plans)
        return torch.full(plans.shape[:2], torch.nan if len(asked) == 1 else 1.0)

    plan = CEM(config).plan(cost, unbounded, torch.tensor([5.0]), torch.tensor([2.0]), seeds=[0])
    assert plan.cost.item() == 1.0
    assert not torch.equal(asked[0], asked[1])
    assert (asked[1].mean(dim=1) - 5).abs().max() < 0.4
    assert (asked[1].std(dim=1) - 2).abs().max() < 0.3


def test_only_environments_with_finite_elites_learn() -> None:
    config = CEMConfig(samples=20, iterations=1, elites=4, horizon=3, min_std=0.1)
    unbounded = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    failed = torch.zeros(3, 20, dtype=torch.bool)
    failed[1], failed[2, 2:] = True, True

    def cost(plans: Tensor) -> Tensor:
        costs = plans.square().sum(dim=(2, 3, 4))
        return costs if plans.shape[1] == 1 else costs.masked_fill(failed, torch.nan)

    asked: list[Tensor] = []

    def remembering(plans: Tensor) -> Tensor:
        asked.append(plans.clone())
        return cost(plans)

    start = (unbounded, torch.tensor([5.0]), torch.tensor([2.0]))
    plan = CEM(config).plan(remembering, *start, seeds=[0, 1, 2])
    candidates, costs, means = asked[0].numpy(), cost(asked[0]).numpy(), asked[1][:, 0].numpy()
    mean, std = numpy_refit(candidates[[0, 2]], costs[[0, 2]], 4)
    np.testing.assert_allclose(means[[0, 2]], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        plan.trace[0].spread[[0, 2]].numpy(), np.maximum(std, 0.2), rtol=1e-5, atol=1e-6
    )
    assert (means[1] == 5).all() and (plan.trace[0].spread[1] == 2).all()
    assert plan.trace[0].mean.isfinite().tolist() == [True, False, True]


def autocorrelation(noise: Tensor, lag: int) -> Tensor:
    """Per candidate of `noise (E, S, L * K, A)`, whose mean is known to be 0 and whose std 1."""
    return (noise[:, :, lag:] * noise[:, :, : noise.shape[2] - lag]).mean(dim=(0, 2, 3))


def test_the_share_of_correlated_candidates_is_correlated_over_time() -> None:
    white = torch.randn(400, 8, 6, 2, 3, generator=torch.Generator().manual_seed(0))
    noise = correlate(white.clone(), 0.5).flatten(2, 3)
    assert torch.equal(noise[:, :4], white[:, :4].flatten(2, 3))
    step = autocorrelation(noise, 1)
    assert step[:4].abs().max() < 0.05
    assert step[4:].min() > 0.75
    held, smooth = noise[:, 4::2], noise[:, 5::2]
    assert torch.equal(held, held[:, :, :1].expand_as(held))
    far = autocorrelation(smooth, 6)
    torch.testing.assert_close(far, torch.full_like(far, np.exp(-2 / 12 * 6)), atol=0.06, rtol=0)
    # Unit variance at every step, and dimensions stay independent.
    assert (noise.square().mean(dim=(0, 3)) - 1).abs().max() < 0.2
    assert (noise[..., 0] * noise[..., 1]).mean().abs() < 0.03


def test_only_the_first_iteration_is_correlated() -> None:
    unbounded = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    recorder = Recorder()
    config = CEMConfig(samples=2000, iterations=2, elites=2000, horizon=6, correlated=1.0)
    CEM(config).plan(recorder, unbounded, torch.zeros(1), torch.ones(1), seeds=[0])
    correlations = []
    for plans in recorder.plans[:2]:
        centred = (plans - plans.mean(dim=1, keepdim=True)).flatten(2)[0]
        correlations.append(float((centred[:, 1:] * centred[:, :-1]).mean() / centred.square().mean()))
    assert correlations[0] > 0.8 and abs(correlations[1]) < 0.1


@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (1, 3)])
def test_correlation_copes_with_short_plans(steps: tuple[int, int]) -> None:
    white = torch.randn(2, 5, *steps, 2)
    for share in (0.0, 0.2, 1.0):
        noise = correlate(white.clone(), share)
        assert noise.shape == white.shape and noise.isfinite().all()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"samples": 0}, "samples is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"elites": 0}, "elites is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"action_block": 0}, "action_block is 0"),
        ({"samples": 8, "elites": 9}, "elites is 9 and samples 8; use elites <= samples"),
        ({"correlated": 1.5}, "correlated is 1.5"),
        ({"min_std": -0.1}, "min_std is -0.1"),
        ({"min_std": float("nan")}, "min_std is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
    ],
)
def test_bad_settings_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        CEMConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_settings_changed_after_construction_are_checked_by_the_planner() -> None:
    config = CEMConfig()
    config.elites = 1000
    with pytest.raises(ValueError, match="elites is 1000"):
        CEM(config)


def test_the_settings_are_a_hydra_node() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    node = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(CEMConfig), {"samples": 32})
    assert omegaconf.OmegaConf.to_object(node) == CEMConfig(samples=32)
