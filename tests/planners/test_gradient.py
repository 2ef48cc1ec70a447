"""Planning by gradients: the optimizer is used, and used as it should be; and one planner after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planners.base import Bounds
from planners.cem import CEM, CEMConfig
from planners.costs import LatentGoalCost
from planners.gradient import Descent, Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.refine import CEMGradient, CEMGradientConfig, Refine

INF = float("inf")
FREE = Bounds(torch.tensor([-INF, -INF]), torch.tensor([INF, INF]))
BOX = Bounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))
ZEROS, ONES = torch.zeros(2), torch.ones(2)


def narrow_valley(plans: Tensor) -> Tensor:
    """The curvature along one axis is ten thousand times that along the other; the bottom lies at (1, 1)."""
    return ((plans - 1).square() * torch.tensor([1.0, 1e4])).sum(dim=(2, 3, 4))


# The optimizer


def test_adam_solves_what_plain_descent_cannot() -> None:
    """At no step size does plain descent get through a valley as narrow as this in as many steps."""
    adam = Gradient(GradientConfig(1, 60, 2, optimizer="adam", lr=0.1))
    found = adam.plan(narrow_valley, FREE, ZEROS, ONES, seeds=[0])
    assert found.cost.item() < 1.0 and (found.actions - 1).abs().max() < 0.05
    for lr in (1e-5, 3e-5, 1e-4, 2e-4, 1e-3, 1e-2, 0.1, 1.0):
        plain = Gradient(GradientConfig(1, 60, 2, optimizer="sgd", lr=lr))
        stuck = plain.plan(narrow_valley, FREE, ZEROS, ONES, seeds=[0])
        assert stuck.cost.item() > 1.5


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_steps_are_those_of_torch(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3, 4, 1, 2, generator=generator)
    theirs = ours.clone().requires_grad_()
    reference: Any = (
        torch.optim.Adam([theirs], lr=0.1)
        if name == "adam"
        else torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    )
    descent = Descent(name, 0.1, 0.9, ours)
    for _ in range(20):
        gradient = torch.randn(ours.shape, generator=generator)
        ours = ours - descent.step(gradient)
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)


def test_a_candidate_that_begins_anew_steps_like_the_first_time() -> None:
    descent, fresh = Descent("adam", 0.1, 0.0, torch.zeros(1, 2, 1, 1, 1)), torch.zeros(1, 2, 1, 1, 1)
    for _ in range(5):
        descent.step(torch.ones(1, 2, 1, 1, 1))
    descent.forget(torch.tensor([True, False]).view(1, 2, 1, 1, 1))
    step = descent.step(-torch.ones(1, 2, 1, 1, 1))
    first = Descent("adam", 0.1, 0.0, fresh).step(-torch.ones(1, 2, 1, 1, 1))
    assert step[0, 0] == first[0, 0] and step[0, 1] != first[0, 1]


def test_one_step_size_fits_dimensions_of_different_units() -> None:
    """Millimetres beside a gripper of 0..1: the same task in other units takes the same steps."""
    units = torch.tensor([0.001, 50.0])

    def in_units(plans: Tensor) -> Tensor:
        return narrow_valley(plans / units)

    for optimizer, lr in (("adam", 0.1), ("sgd", 1e-5)):
        planner = Gradient(GradientConfig(4, 15, 3, optimizer=optimizer, lr=lr))
        plain = planner.plan(narrow_valley, FREE, ZEROS, ONES, seeds=[0])
        scaled = planner.plan(in_units, FREE, ZEROS, units, seeds=[0])
        torch.testing.assert_close(scaled.actions / units, plain.actions, atol=1e-3, rtol=1e-3)


def test_a_dimension_without_spread_stays_where_it_is() -> None:
    plan = Gradient(GradientConfig(4, 10, 3)).plan(
        narrow_valley, FREE, torch.tensor([0.0, 0.3]), torch.tensor([1.0, 0.0]), seeds=[0]
    )
    assert (plan.actions[..., 1] == 0.3).all() and plan.actions[..., 0].min() > 0.1


def test_at_the_bounds_it_goes_on_along_them() -> None:
    target = torch.tensor([3.0, 0.5])
    plan = Gradient(GradientConfig(2, 60, 3, lr=0.1)).plan(
        lambda plans: (plans - target).square().sum(dim=(2, 3, 4)), BOX, ZEROS, ONES, seeds=[0]
    )
    torch.testing.assert_close(plan.actions, BOX.clip(target).expand_as(plan.actions), atol=0.02, rtol=0)


def test_restarts_find_the_deeper_valley() -> None:
    def two_valleys(plans: Tensor) -> Tensor:
        x = plans.mean(dim=(2, 3, 4))
        return (x.square() - 1).square() - 0.3 * x  # the deeper one on the right; the start lies in the other

    start = torch.full((1, 1, 1, 2), -1.0)
    alone = Gradient(GradientConfig(1, 40, 1)).plan(two_valleys, FREE, ZEROS, ONES, seeds=[0], start=start)
    many = Gradient(GradientConfig(16, 40, 1, spread=2.0)).plan(
        two_valleys, FREE, ZEROS, ONES, seeds=[0], start=start
    )
    assert alone.actions.mean() < -0.8 and many.actions.mean() > 0.8


# Models


def test_the_models_parameters_get_no_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 4)

    def rollout(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        return context[:, None, None, -1] + model(plans[:, :, :, 0]).cumsum(dim=2)[:, :, :, None]

    with torch.inference_mode():  # as encoders may run
        context, goals = torch.zeros(2, 1, 1, 4), torch.ones(2, 1, 4)
    cost = LatentGoalCost(rollout, context, torch.zeros(2, 0, 1, 2), goals)
    start = cost(torch.zeros(2, 1, 5, 1, 2))[:, 0]
    plan = Gradient(GradientConfig(4, 20, 5)).plan(cost, BOX, ZEROS, ONES, seeds=[0, 1])
    assert (plan.cost < 0.8 * start).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not plan.actions.requires_grad and not plan.cost.requires_grad


def test_plans_that_run_into_failure_begin_anew() -> None:
    def cliff(plans: Tensor) -> Tensor:
        cost = -plans.sum(dim=(2, 3, 4))
        return torch.where(plans.amax(dim=(2, 3, 4)) > 0.5, torch.nan, cost)

    plan = Gradient(GradientConfig(8, 40, 2)).plan(cliff, FREE, ZEROS, ONES, seeds=[0, 1])
    assert (plan.actions <= 0.5).all() and (plan.cost < -1.2).all()
    assert min(int(entry.nonfinite.min()) for entry in plan.trace[-10:]) < 8  # some are always on their way


def test_a_gradient_that_is_not_finite_fails_like_a_cost() -> None:
    def root(plans: Tensor) -> Tensor:  # the gradient at 0 is infinite, and 0 is where the search begins
        return plans.abs().sum(dim=(2, 3, 4)).sqrt() + (plans - 0.5).square().sum(dim=(2, 3, 4))

    plan = Gradient(GradientConfig(4, 30, 2)).plan(root, FREE, ZEROS, ONES, seeds=[0])
    assert plan.actions.isfinite().all() and plan.cost.isfinite().all()


# One planner after another


def test_refining_never_makes_a_plan_worse_and_uses_gradients() -> None:
    cem = CEMConfig(32, 3, 6, 4)
    found = CEM(cem).plan(narrow_valley, FREE, ZEROS, ONES, seeds=range(4))
    refined = CEMGradient(CEMGradientConfig(32, 3, 6, 4, steps=20)).plan(
        narrow_valley, FREE, ZEROS, ONES, seeds=range(4)
    )
    assert (refined.cost < found.cost).all()
    assert len(refined.trace) == 23
    assert [entry.best.tolist() for entry in refined.trace[:3]] == [e.best.tolist() for e in found.trace]


def test_elites_of_the_first_are_starts_of_the_second() -> None:
    asked = []

    def cost(plans: Tensor) -> Tensor:
        asked.append(plans.detach().clone())
        return narrow_valley(plans)

    first = ICEM(ICEMConfig(20, 1, 4, 3, keep=0.5))
    plan = Refine(first, Gradient(GradientConfig(3, 1, 3))).plan(cost, FREE, ZEROS, ONES, seeds=[0])
    assert plan.elites is not None and torch.equal(asked[2][:, 1:], plan.elites)
    assert Refine(first, Gradient(GradientConfig(3, 1, 3))).memory == 2


def test_of_a_deadline_the_second_gets_what_is_left(clock: Any) -> None:
    def slow(plans: Tensor) -> Tensor:
        clock.now += 0.1
        return narrow_valley(plans)

    planner = CEMGradient(CEMGradientConfig(8, 3, 2, 4, steps=50))
    assert len(planner.plan(slow, FREE, ZEROS, ONES, seeds=[0], deadline=0.25).trace) == 2  # CEM's only
    assert 3 < len(planner.plan(slow, FREE, ZEROS, ONES, seeds=[0], deadline=1.05).trace) <= 10


def test_planners_of_different_sizes_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"first planner's .* is \(4, 1\), the second's \(5, 1\)"):
        Refine(CEM(CEMConfig(horizon=4)), Gradient(GradientConfig(horizon=5)))
