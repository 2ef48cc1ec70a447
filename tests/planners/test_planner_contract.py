"""What every planner promises, besides finding good plans. `factory` comes from conftest.py: each planner in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds, Planner

Factory = Callable[..., Planner]
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


def constant(plans: Tensor, costs: Tensor | float) -> Tensor:
    """Costs that do not depend on the plans, with a gradient of 0."""
    return 0 * plans.sum(dim=(2, 3, 4)) + costs


def same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left, right)


# Bounds


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


# Few candidates


@pytest.mark.parametrize("samples", [1, 2])
def test_very_few_samples_give_a_finite_plan_and_still_search(factory: Factory, samples: int) -> None:
    cost = Recorder(quadratic(torch.tensor([0.5, 0.5])))
    plan = factory(samples=samples, iterations=5).plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1])
    assert plan.actions.isfinite().all() and plan.cost.isfinite().all()
    assert not same(cost.plans[0][:, -1], cost.plans[1][:, -1])


# Randomness


def test_the_same_seed_gives_the_same_plan_bit_for_bit(factory: Factory) -> None:
    def rugged(plans: Tensor) -> Tensor:
        return (plans * 9).sin().sum(dim=(2, 3, 4)) + quadratic(TARGET)(plans)

    def run(seeds: list[int]) -> Tensor:
        return factory().plan(rugged, BOUNDS, MEAN, STD, seeds=seeds).actions

    torch.manual_seed(0)
    first = run([7, 8])
    torch.manual_seed(1)  # the global generator plays no part
    assert same(first, run([7, 8]))
    assert not same(first[0], first[1])
    assert not same(first, run([7 + 2**32, 8 + 2**40]))  # all bits of a seed count


def test_the_global_generator_is_left_alone(factory: Factory) -> None:
    before = torch.random.get_rng_state()
    factory().plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0])
    assert same(before, torch.random.get_rng_state())


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


@pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
def test_non_finite_costs_rank_last_and_are_counted(factory: Factory, bad: float) -> None:
    target = torch.tensor([0.9, 0.0])

    def cost(plans: Tensor) -> Tensor:  # the optimum lies where evaluation fails
        return torch.where(plans[..., 0].amax(dim=(2, 3)) > 0.5, bad, quadratic(target)(plans))

    recorder = Recorder(cost)
    plan = factory(samples=128, iterations=8).plan(recorder, BOUNDS, MEAN, STD, seeds=[0, 1])
    assert plan.cost.isfinite().all()
    assert (plan.actions[..., 0] <= 0.5).all()
    counts = iter([(~costs.isfinite()).sum(dim=1) for costs in recorder.costs])
    for entry in plan.trace:  # what is evaluated after an iteration has no entry
        assert any(same(entry.nonfinite, count) for count in counts)
        assert entry.best.isfinite().all() and entry.mean.isfinite().all()
    assert plan.trace[0].nonfinite.min() > 0


def test_an_environments_failures_leave_its_neighbours_alone(factory: Factory) -> None:
    """Of three environments the second has no finite cost at first, the third a single one."""

    def failing(rows: list[int]) -> Recorder:
        def cost(plans: Tensor) -> Tensor:
            values, first = quadratic(TARGET)(plans), not recorder.plans
            bad = torch.zeros(3, plans.shape[1], dtype=torch.bool)
            bad[1], bad[2, 1:] = first, first
            return torch.where(bad[rows], torch.nan, values)

        recorder = Recorder(cost)
        return recorder

    together = factory(iterations=6).plan(failing([0, 1, 2]), BOUNDS, MEAN, STD, seeds=[5, 6, 7])
    assert together.cost.isfinite().all()
    assert together.trace[0].best.isfinite().tolist() == [True, False, True]
    assert together.trace[0].mean.isfinite().tolist() == [True, False, True]
    for row in range(3):
        alone = factory(iterations=6).plan(failing([row]), BOUNDS, MEAN, STD, seeds=[5 + row])
        assert same(alone.actions[0], together.actions[row]) and same(alone.cost[0], together.cost[row])


def test_one_finite_candidate_is_found_among_failures(factory: Factory) -> None:
    def cost(plans: Tensor) -> Tensor:
        values = torch.full(plans.shape[:2], torch.nan)
        if plans.shape[1] > 7:
            values[:, 7] = 4.0
        return constant(plans, values)

    recorder = Recorder(cost)
    plan = factory(iterations=1).plan(recorder, BOUNDS, MEAN, STD, seeds=[0])
    assert plan.cost.tolist() == [4.0]
    assert same(plan.actions[0], recorder.plans[0][0, 7])


def test_without_any_finite_cost_the_starting_plan_comes_back_with_infinite_cost(factory: Factory) -> None:
    def cost(plans: Tensor) -> Tensor:
        return constant(plans, torch.nan)

    plan = factory().plan(cost, BOUNDS, torch.tensor([0.25, 9.0]), STD, seeds=[0, 1])
    assert plan.cost.tolist() == [INF, INF]
    assert same(plan.actions, torch.tensor([0.25, 1.0]).expand_as(plan.actions))
    assert all((entry.nonfinite > 0).all() for entry in plan.trace)
    start = torch.rand(2, 4, 1, 2)
    plan = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1], start=start)
    assert same(plan.actions, start)


# Time


@pytest.mark.parametrize("limit", [0.1, 0.3, 1.0])
def test_a_deadline_is_kept_within_one_iteration_and_returns_the_best_so_far(
    factory: Factory, clock: Any, limit: float
) -> None:
    """With a clock that moves while the cost is computed, and now and then more slowly."""

    def slow(plans: Tensor) -> Tensor:
        clock.now += 0.02 if len(cost.plans) % 5 else 0.03
        return quadratic(TARGET)(plans)

    cost = Recorder(slow)
    began = clock.now
    plan = factory(iterations=1000).plan(cost, BOUNDS, MEAN, STD, seeds=[0], deadline=limit)
    longest = max(entry.seconds for entry in plan.trace)
    assert clock.now - began <= 1.1 * limit + longest
    assert clock.now - began >= limit - 2 * longest  # and the time is used
    assert same(plan.cost, torch.cat(cost.costs, dim=1).amin(dim=1))


def test_an_impossible_deadline_still_gives_one_iteration(factory: Factory) -> None:
    plan = factory(iterations=5).plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0], deadline=1e-9)
    assert len(plan.trace) == 1 and plan.cost.isfinite().all()


def test_a_generous_deadline_changes_nothing(factory: Factory) -> None:
    cost = quadratic(TARGET)
    free = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0])
    timed = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[0], deadline=100.0)
    assert same(free.actions, timed.actions)


# Warm start


@pytest.mark.parametrize("samples", [1, 3, 64])
def test_several_starts_are_candidates_as_many_as_there_is_room_for(factory: Factory, samples: int) -> None:
    starts = torch.rand(2, 5, 4, 1, 2) * 3 - 1.5  # partly outside the bounds
    cost = Recorder(quadratic(TARGET))
    plan = factory(samples=samples).plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1], start=starts)
    room = min(5, cost.plans[0].shape[1])
    assert same(cost.plans[0][:, :room], BOUNDS.clip(starts)[:, :room])
    assert (plan.cost <= cost.costs[0][:, :room].amin(dim=1)).all()
    one = factory().plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0, 1], start=starts[:, 0])
    again = factory().plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0, 1], start=starts[:, :1])
    assert same(one.actions, again.actions)


def test_starts_that_repeat_the_first_leave_their_place_to_new_candidates(factory: Factory) -> None:
    """Else the plan that is left, which is also the best of the elites, would count several times."""
    first, other = torch.full((2, 1, 4, 1, 2), 0.25), torch.full((2, 1, 4, 1, 2), -0.5)
    starts = torch.cat([first, first, other, first], dim=1)
    starts[1, 3] = 0.75  # only in the first environment
    cost = Recorder(quadratic(TARGET))
    factory(samples=16).plan(cost, BOUNDS, MEAN, STD, seeds=[0, 1], start=starts)
    asked = cost.plans[0]
    repeated = (asked == starts[:, :1]).flatten(2).all(dim=2).sum(dim=1)
    assert repeated.tolist() == [1, 1]
    assert same(asked[:, 0], starts[:, 0])
    if asked.shape[1] > 3:
        assert same(asked[:, 2], starts[:, 2]) and same(asked[1, 3], starts[1, 3])


def test_a_planner_with_a_memory_tells_its_size(factory: Factory) -> None:
    planner = factory()
    plan = planner.plan(quadratic(TARGET), BOUNDS, MEAN, STD, seeds=[0, 1])
    memory = getattr(planner, "memory", 0)
    if memory == 0:
        assert plan.elites is None
        return
    assert plan.elites is not None and plan.elites.shape == (2, memory, *plan.actions.shape[1:])
    costs = quadratic(TARGET)(plan.elites)
    assert (costs.diff(dim=1) >= 0).all() and (costs[:, 0] >= plan.cost).all()


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


def test_a_warm_start_helps(factory: Factory) -> None:
    cost = quadratic(torch.tensor([0.8, -0.8]))
    planner = factory(iterations=1)
    cold = planner.plan(cost, BOUNDS, MEAN, STD, seeds=range(16))
    near = torch.tensor([0.7, -0.7]).expand_as(cold.actions)
    warm = planner.plan(cost, BOUNDS, MEAN, STD, seeds=range(16), start=near)
    assert (warm.cost < cold.cost).all()


def test_the_inputs_are_not_changed(factory: Factory) -> None:
    start, mean, std = torch.full((1, 4, 1, 2), 3.0), MEAN.clone(), STD.clone()
    factory().plan(quadratic(TARGET), BOUNDS, mean, std, seeds=[0], start=start)
    assert (start == 3).all() and same(mean, MEAN) and same(std, STD)


# Errors: one clear line each


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
        ({"start": torch.zeros(1, 0, 4, 1, 2)}, "or .E, P, L, K, A. for P plans"),
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
