"""What every planner promises. A new planner joins by adding its factory to PLANNERS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds, Planner
from planners.cem import CEM, CEMConfig


class Factory(Protocol):
    """Builds a planner of about `samples` candidates per iteration."""

    def __call__(
        self, samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
    ) -> Planner: ...


def cem(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    elites = max(1, samples // 6)
    return CEM(CEMConfig(samples, iterations, elites, horizon, action_block))


def cem_with_momentum(
    samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
) -> Planner:
    elites = max(1, samples // 6)
    return CEM(CEMConfig(samples, iterations, elites, horizon, action_block, correlated=1.0, momentum=0.1))


PLANNERS = [cem, cem_with_momentum]
each_planner = pytest.mark.parametrize("factory", PLANNERS, ids=lambda factory: factory.__name__)

INF = float("inf")
BOUNDS = Bounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))
MEAN, STD = torch.zeros(2), torch.full((2,), 0.5)
TARGET = torch.tensor([0.3, -0.2])


class Recorder:
    """A cost that remembers the candidates it was asked about and what it answered."""

    def __init__(self, cost: Callable[[Tensor], Tensor]) -> None:
        self.cost, self.plans, self.costs = cost, [], []

    def __call__(self, plans: Tensor) -> Tensor:
        costs = self.cost(plans)
        self.plans.append(plans.detach().clone())
        self.costs.append(costs.detach().clone())
        return costs


def quadratic(target: Tensor) -> Callable[[Tensor], Tensor]:
    """Squared distance of every action of a plan to `target (A,)` or `(E, 1, 1, 1, A)`."""
    return lambda plans: (plans - target).square().sum(dim=(2, 3, 4))


def same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left, right)


# Bounds


@each_planner
@pytest.mark.parametrize("case", range(12))
def test_every_candidate_and_the_plan_stay_inside_random_bounds(factory: Factory, case: int) -> None:
    rng = np.random.default_rng(case)
    dims = int(rng.integers(1, 8))
    low = rng.normal(size=dims) * 10 ** rng.uniform(-3, 3, dims)
    high = low + np.abs(rng.normal(size=dims)) * 10 ** rng.uniform(-3, 3, dims)
    low[rng.random(dims) < 0.3], high[rng.random(dims) < 0.3] = -INF, INF
    if case % 4 == 0:
        high[0] = low[0] = 0.3  # a fixed dimension
    bounds = Bounds(torch.tensor(low), torch.tensor(high))
    mean = torch.tensor(rng.normal(size=dims) * 100, dtype=torch.float32)  # often far outside
    std = torch.tensor(rng.uniform(0.1, 100, dims), dtype=torch.float32)
    cost = Recorder(quadratic(torch.tensor(rng.normal(size=dims) * 1000, dtype=torch.float32)))
    planner = factory(horizon=int(rng.integers(1, 6)), action_block=int(rng.integers(1, 4)))
    start = mean.expand(2, planner.horizon, planner.action_block, dims) * 2 if case % 2 else None
    plan = planner.plan(cost, bounds, mean, std, seeds=[case, 1], start=start)
    assert plan.actions.shape == (2, planner.horizon, planner.action_block, dims)
    for actions in [*cost.plans, plan.actions]:
        assert actions.isfinite().all()
        assert (actions >= bounds.low).all() and (actions <= bounds.high).all()


# Optimisation


@each_planner
@pytest.mark.parametrize("target", [(0.3, -0.6), (0.0, 0.9), (5.0, -5.0)], ids=["inside", "edge", "outside"])
def test_the_optimum_of_a_convex_cost_is_found(factory: Factory, target: tuple[float, float]) -> None:
    planner = factory(samples=256, iterations=20, horizon=3, action_block=2)
    plan = planner.plan(quadratic(torch.tensor(target)), BOUNDS, MEAN, STD, seeds=[0, 1, 2])
    best = BOUNDS.clip(torch.tensor(target))
    assert (plan.actions - best).abs().max() < 0.1
    assert (plan.actions - best).square().mean() < 1e-3


@each_planner
def test_the_optimum_is_found_without_bounds(factory: Factory) -> None:
    bounds = Bounds(torch.tensor([-INF, -INF]), torch.tensor([INF, 1.0]))
    plan = factory(samples=256, iterations=30).plan(
        quadratic(torch.tensor([3.0, -3.0])), bounds, MEAN, torch.ones(2), seeds=[0]
    )
    assert (plan.actions - torch.tensor([3.0, -3.0])).square().mean() < 0.02


@each_planner
def test_more_iterations_lower_the_cost(factory: Factory) -> None:
    cost = quadratic(torch.tensor([0.7, -0.7]))
    costs = [
        factory(iterations=iterations).plan(cost, BOUNDS, MEAN, STD, seeds=range(8)).cost.mean()
        for iterations in (1, 4, 16)
    ]
    assert costs[0] > costs[1] > costs[2]


@each_planner
def test_the_returned_plan_is_the_best_candidate_and_its_cost_is_true(factory: Factory) -> None:
    def rugged(plans: Tensor) -> Tensor:
        return (plans * 40).sin().sum(dim=(2, 3, 4))

    cost = Recorder(rugged)
    plan = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[3, 4])
    assert same(plan.cost, torch.cat(cost.costs, dim=1).amin(dim=1))
    torch.testing.assert_close(rugged(plan.actions[:, None])[:, 0], plan.cost)


@each_planner
def test_the_trace_tells_what_happened(factory: Factory) -> None:
    plan = factory(iterations=4).plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[3, 4])
    assert len(plan.trace) == 4
    for entry in plan.trace:
        assert entry.best.shape == entry.mean.shape == entry.std.shape == entry.nonfinite.shape == (2,)
        assert (entry.best <= entry.mean).all() and entry.mean.isfinite().all()
        assert (entry.nonfinite == 0).all() and entry.seconds > 0


@each_planner
@pytest.mark.parametrize("samples", [1, 2])
def test_very_few_samples_give_a_finite_plan_and_still_search(factory: Factory, samples: int) -> None:
    cost = Recorder(quadratic(torch.tensor([0.5, 0.5])))
    plan = factory(samples=samples, iterations=5).plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1])
    assert plan.actions.isfinite().all() and plan.cost.isfinite().all()
    assert not same(cost.plans[0][:, -1], cost.plans[1][:, -1])


# Randomness


@each_planner
def test_the_same_seed_gives_the_same_plan_bit_for_bit(factory: Factory) -> None:
    def run(seeds: list[int]) -> Tensor:
        return factory().plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=seeds).actions

    torch.manual_seed(0)
    first = run([7, 8])
    torch.manual_seed(1)  # the global generator plays no part
    assert same(first, run([7, 8]))
    assert not same(first[0], first[1])
    assert not same(first, run([7 + 2**32, 8 + 2**40]))  # all bits of a seed count


@each_planner
def test_the_global_generator_is_left_alone(factory: Factory) -> None:
    before = torch.random.get_rng_state()
    factory().plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0])
    assert same(before, torch.random.get_rng_state())


@each_planner
@pytest.mark.parametrize("dims, block, horizon", [(1, 1, 1), (2, 1, 4), (3, 5, 5), (7, 2, 3)])
def test_a_plan_does_not_depend_on_its_neighbours(
    factory: Factory, dims: int, block: int, horizon: int
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(horizon * block * dims, 33), nn.Tanh(), nn.Linear(33, 1))

    def cost(plans: Tensor) -> Tensor:  # every environment by itself: batched matmuls may round differently
        return torch.stack([network(one.flatten(1).clone())[:, 0] for one in plans])

    planner = factory(samples=50, horizon=horizon, action_block=block)
    bounds = Bounds(-torch.ones(dims), torch.rand(dims))
    mean, std = torch.randn(dims) * 0.1, torch.rand(dims) + 0.1
    seeds = torch.arange(100, 109)
    start = torch.randn(9, horizon, block, dims)
    for given in (None, start):
        together = planner.plan(cost, bounds, mean, std, seeds=seeds, start=given)
        for some in ([0], [8], [3, 5], [6, 2, 4, 1]):
            part = None if given is None else given[some]
            alone = planner.plan(cost, bounds, mean, std, seeds=seeds[some], start=part)
            assert same(alone.actions, together.actions[some])
            assert same(alone.cost, together.cost[some])


@each_planner
def test_a_broken_neighbour_does_not_change_a_plan(factory: Factory) -> None:
    good = quadratic(torch.tensor([0.2, 0.2]))
    alone = factory().plan(good, BOUNDS, MEAN, STD, seeds=[5])

    def second_is_nan(plans: Tensor) -> Tensor:
        costs = good(plans)
        costs[1] = torch.nan
        return costs

    together = factory().plan(second_is_nan, BOUNDS, MEAN, STD, seeds=[5, 6])
    assert same(alone.actions[0], together.actions[0]) and same(alone.cost[0], together.cost[0])


# Failed evaluations


@each_planner
@pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
def test_non_finite_costs_rank_last_and_are_counted(factory: Factory, bad: float) -> None:
    target = torch.tensor([0.9, 0.0])

    def cost(plans: Tensor) -> Tensor:  # the optimum lies where evaluation fails
        return torch.where(plans[..., 0].amax(dim=(2, 3)) > 0.5, bad, quadratic(target)(plans))

    recorder = Recorder(cost)
    plan = factory(samples=128, iterations=8).plan(recorder, BOUNDS, MEAN, STD, seeds=[0, 1])
    assert plan.cost.isfinite().all()
    assert (plan.actions[..., 0] <= 0.5).all()
    for entry, costs in zip(plan.trace, recorder.costs, strict=False):
        assert same(entry.nonfinite, (~costs.isfinite()).sum(dim=1))
        assert entry.best.isfinite().all() and entry.mean.isfinite().all()
    assert plan.trace[0].nonfinite.min() > 0


@each_planner
def test_one_finite_candidate_is_found_among_failures(factory: Factory) -> None:
    def cost(plans: Tensor) -> Tensor:
        costs = torch.full(plans.shape[:2], torch.nan)
        if plans.shape[1] > 7:
            costs[:, 7] = 4.0
        return costs

    recorder = Recorder(cost)
    plan = factory(iterations=1).plan(recorder, BOUNDS, MEAN, STD, seeds=[0])
    assert plan.cost.tolist() == [4.0]
    assert same(plan.actions[0], recorder.plans[0][0, 7])


@each_planner
def test_without_any_finite_cost_the_starting_plan_comes_back_with_infinite_cost(factory: Factory) -> None:
    def cost(plans: Tensor) -> Tensor:
        return torch.full(plans.shape[:2], torch.nan)

    plan = factory().plan(cost, BOUNDS, torch.tensor([0.25, 9.0]), STD, seeds=[0, 1])
    assert plan.cost.tolist() == [INF, INF]
    assert same(plan.actions, torch.tensor([0.25, 1.0]).expand_as(plan.actions))
    assert all((entry.nonfinite > 0).all() for entry in plan.trace)
    start = torch.rand(2, 4, 1, 2)
    plan = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1], start=start)
    assert same(plan.actions, start)


# Time


@each_planner
def test_a_deadline_is_kept_within_one_iteration_and_returns_the_best_so_far(factory: Factory) -> None:
    def slow(plans: Tensor) -> Tensor:
        time.sleep(0.02)
        return quadratic(TARGET)(plans)

    cost = Recorder(slow)
    began = time.perf_counter()
    plan = factory(iterations=1000).plan(cost, BOUNDS, MEAN, STD, seeds=[0], deadline=0.3)
    took = time.perf_counter() - began
    longest = max(entry.seconds for entry in plan.trace)
    assert took < 0.3 + longest + 0.1
    assert 2 <= len(plan.trace) <= 15
    assert same(plan.cost, torch.cat(cost.costs, dim=1).amin(dim=1))


@each_planner
def test_an_impossible_deadline_still_gives_one_iteration(factory: Factory) -> None:
    plan = factory(iterations=5).plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0], deadline=1e-9)
    assert len(plan.trace) == 1 and plan.cost.isfinite().all()


@each_planner
def test_a_generous_deadline_changes_nothing(factory: Factory) -> None:
    cost = quadratic(TARGET)
    free = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0])
    timed = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0], deadline=100.0)
    assert same(free.actions, timed.actions)


# Warm start


@each_planner
@pytest.mark.parametrize("samples", [1, 16])
def test_a_warm_start_is_never_worse_than_the_plan_it_starts_from(factory: Factory, samples: int) -> None:
    cost = quadratic(torch.tensor([0.4, -0.4]))
    plan = factory(samples=samples).plan(cost, BOUNDS, MEAN, STD, seeds=range(6))
    for _ in range(4):
        again = factory(samples=samples).plan(
            cost, BOUNDS, MEAN, STD, seeds=range(50, 56), start=plan.actions
        )
        assert (again.cost <= plan.cost).all()
        plan = again


@each_planner
def test_a_warm_start_helps(factory: Factory) -> None:
    cost = quadratic(torch.tensor([0.8, -0.8]))
    planner = factory(iterations=1)
    cold = planner.plan(cost, BOUNDS, MEAN, STD, seeds=range(16))
    near = torch.tensor([0.7, -0.7]).expand_as(cold.actions)
    warm = planner.plan(cost, BOUNDS, MEAN, STD, seeds=range(16), start=near)
    assert (warm.cost < cold.cost).all()


@each_planner
def test_the_inputs_are_not_changed(factory: Factory) -> None:
    start, mean, std = torch.full((1, 4, 1, 2), 3.0), MEAN.clone(), STD.clone()
    factory().plan(quadratic(TARGET), BOUNDS, mean, std, seeds=[0], start=start)
    assert (start == 3).all() and same(mean, MEAN) and same(std, STD)


# Errors: one clear line each


@each_planner
@pytest.mark.parametrize(
    "change, message",
    [
        ({"init_std": torch.tensor([1.0, -1.0])}, "init_std is .* negative"),
        ({"init_std": torch.zeros(2)}, "init_std is .* above 0"),
        ({"init_std": torch.tensor([1.0, torch.nan])}, "init_std is .* finite"),
        ({"init_mean": torch.tensor([1.0, INF])}, "init_mean is .* finite"),
        ({"init_mean": torch.zeros(3)}, r"init_mean has shape \(3,\)"),
        ({"seeds": []}, "seeds have shape"),
        ({"seeds": [0.5]}, "seeds have shape"),
        ({"start": torch.zeros(1, 5, 1, 2)}, r"start has shape .* expected \(E, L, K, A\) = \(1, 4, 1, 2\)"),
        ({"start": torch.full((1, 4, 1, 2), torch.nan)}, "start holds NaN"),
        ({"deadline": 0.0}, "deadline is 0.0"),
        ({"cost": lambda plans: plans.sum()}, "the cost returned shape"),
        ({"cost": lambda plans: plans.sum(dim=(2, 3))}, "the cost returned shape"),
    ],
)
def test_bad_arguments_are_named(factory: Factory, change: dict[str, object], message: str) -> None:
    arguments = {
        "cost": quadratic(TARGET), "bounds": BOUNDS, "init_mean": MEAN, "init_std": STD,
        "seeds": [0], **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message) as error:
        factory().plan(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "low, high, message",
    [
        ([0.0, 0.0], [1.0], "same length"),
        ([], [], "same length"),
        ([[0.0]], [[1.0]], "same length"),
        ([0.0, 1.0], [1.0, 0.5], "dimension 1"),
        ([0.0, torch.nan], [1.0, 1.0], "dimension 1"),
        ([INF], [INF], "dimension 0"),
    ],
)
def test_impossible_bounds_are_named(low: list[float], high: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bounds(torch.tensor(low), torch.tensor(high))


def test_bounds_take_arrays() -> None:
    bounds = Bounds(np.array([-1.0, -2.0]), np.array([1.0, np.inf]))  # type: ignore[arg-type]
    assert bounds.low.dtype == torch.float32 and bounds.action_dim == 2
    assert bounds.clip(torch.tensor([[5.0, 5.0], [-5.0, -5.0]])).tolist() == [[1.0, 5.0], [-1.0, -2.0]]
