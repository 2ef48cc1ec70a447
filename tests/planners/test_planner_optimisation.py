"""What every planner finds. `factory` and `learner` come from conftest.py: each planner in turn."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from planners.base import Bounds, Planner
from planners.cma_es import CMAESConfig
from planners.nevergrad import ALGORITHMS, NevergradConfig
from planners.problems import Problem, double_integrator, drive, pendulum, progress
from planners.registry import NEEDS_GRADIENT, PLANNERS, build_planner, planner_kind

Factory = Callable[..., Planner]
INF = float("inf")
BOUNDS = Bounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))
MEAN, STD = torch.zeros(2), torch.full((2,), 0.5)
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "planner"


def quadratic(target: Tensor) -> Callable[[Tensor], Tensor]:
    """Squared distance of every action of a plan to `target (A,)`."""
    return lambda plans: (plans - target).square().sum(dim=(2, 3, 4))


class Recorder:
    """A cost that remembers what it answered, and for how many candidates."""

    def __init__(self, cost: Callable[[Tensor], Tensor]) -> None:
        self.cost, self.costs = cost, list[Tensor]()

    def __call__(self, plans: Tensor) -> Tensor:
        costs = self.cost(plans)
        self.costs.append(costs.detach().clone())
        return costs


@pytest.mark.parametrize("target", [(0.3, -0.6), (0.0, 0.9), (5.0, -5.0)], ids=["inside", "edge", "outside"])
def test_the_optimum_of_a_convex_cost_is_found(learner: Factory, target: tuple[float, float]) -> None:
    planner = learner(samples=256, iterations=24, horizon=3, action_block=2)
    plan = planner.plan(quadratic(torch.tensor(target)), BOUNDS, MEAN, STD, seeds=[0, 1, 2])
    best = BOUNDS.clip(torch.tensor(target))
    assert (plan.actions - best).abs().max() < 0.1
    assert (plan.actions - best).square().mean() < 1e-3


def test_the_optimum_is_found_without_bounds(learner: Factory) -> None:
    bounds = Bounds(torch.tensor([-INF, -INF]), torch.tensor([INF, 1.0]))
    plan = learner(samples=256, iterations=40).plan(
        quadratic(torch.tensor([3.0, -3.0])), bounds, MEAN, torch.ones(2), seeds=[0]
    )
    assert (plan.actions - torch.tensor([3.0, -3.0])).square().mean() < 0.02


def test_more_iterations_lower_the_cost(factory: Factory) -> None:
    cost = quadratic(torch.tensor([0.7, -0.7]))
    costs = [
        factory(iterations=iterations).plan(cost, BOUNDS, MEAN, STD, seeds=range(8)).cost.mean()
        for iterations in (1, 4, 16)
    ]
    assert costs[0] > costs[1] > costs[2]


def test_the_returned_plan_is_the_best_candidate_and_its_cost_is_true(factory: Factory) -> None:
    def rugged(plans: Tensor) -> Tensor:
        return (plans * 40).sin().sum(dim=(2, 3, 4))

    cost = Recorder(rugged)
    plan = factory().plan(cost, BOUNDS, MEAN, STD, seeds=[3, 4])
    assert torch.equal(plan.cost, torch.cat(cost.costs, dim=1).amin(dim=1))
    torch.testing.assert_close(rugged(plan.actions[:, None])[:, 0], plan.cost)


def test_the_trace_tells_what_happened(factory: Factory) -> None:
    planner = factory(iterations=4)
    plan = planner.plan(quadratic(torch.tensor([0.3, -0.2])), BOUNDS, MEAN, STD, seeds=[3, 4])
    assert len(plan.trace) == 4
    for entry in plan.trace:
        assert entry.best.shape == entry.mean.shape == entry.std.shape == entry.nonfinite.shape == (2,)
        assert entry.best.isfinite().all() and entry.mean.isfinite().all()
        if not hasattr(planner, "memory"):  # what is remembered may be better than all that is new
            assert (entry.best <= entry.mean).all()
        assert (entry.nonfinite == 0).all() and entry.seconds > 0


# Two valleys


def two_ways(plans: Tensor) -> Tensor:
    """To the left or to the right around an obstacle in the middle; both are as good."""
    side = plans[..., 0].mean(dim=(2, 3))
    return (side.abs() - 0.6).square() + 4 * (-(side.square()) / 0.02).exp() + quadratic_rest(plans)


def quadratic_rest(plans: Tensor) -> Tensor:
    return 0.1 * plans[..., 1].square().mean(dim=(2, 3))


#: Kinds that need the package of that name.
OPTIONAL = ("cma", "nevergrad")


def documented(kind: str) -> Any:
    """The settings that `planner=KIND` stands for on a command line."""
    omegaconf = pytest.importorskip("omegaconf")
    values = omegaconf.OmegaConf.load(CONFIGS / f"{kind}.yaml")
    del values["defaults"]
    return PLANNERS[kind][0](**values)


def usual(kind: str) -> Any:
    """The settings that Python code gets without giving any."""
    return PLANNERS[kind][0]()


@pytest.mark.parametrize("settings", [usual, documented])
@pytest.mark.parametrize("kind", list(PLANNERS))
def test_two_ways_are_not_averaged_away(kind: str, settings: Callable[[str], Any]) -> None:
    if kind in OPTIONAL:
        pytest.importorskip(kind)
    planner = build_planner(settings(kind))
    plan = planner.plan(two_ways, BOUNDS, MEAN, STD, seeds=range(16))
    side = plan.actions[..., 0].mean(dim=(1, 2))
    assert (side.abs() > 0.35).all()
    assert (side > 0).any() and (side < 0).any()  # and neither way is preferred
    assert (plan.cost < 0.1).all()


# Systems whose dynamics are known

PROBLEMS = [double_integrator, pendulum]
#: For one decision, as small as will do.
SMALL: dict[str, dict[str, Any]] = {
    "cem": {"samples": 64, "iterations": 3, "elites": 10},
    "icem": {"samples": 64, "iterations": 3, "elites": 10},
    "mppi": {"samples": 64, "iterations": 3},
    "random_shooting": {"samples": 128, "iterations": 2},
    "gradient": {"samples": 16, "iterations": 10, "lr": 0.3},
    "cem_gradient": {"samples": 64, "iterations": 3, "elites": 10, "steps": 4, "restarts": 2},
    "cma": {"samples": 24, "iterations": 8},
    "nevergrad": {"samples": 24, "iterations": 8},
}


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", list(PLANNERS))
def test_the_goal_is_reached(kind: str, make: Callable[[], Problem]) -> None:
    if kind in OPTIONAL:
        pytest.importorskip(kind)
    problem = make()
    config = PLANNERS[kind][0](horizon=16, action_block=problem.action_block, **SMALL[kind])
    distances = drive(build_planner(config), problem, 40, seeds=[0, 1])
    assert (distances[0] > 10 * problem.done / 2).all()
    assert (distances < problem.done).any(dim=0).all()


def test_without_a_search_the_goal_is_not_reached() -> None:
    for problem in (double_integrator(), pendulum()):
        config = PLANNERS["random_shooting"][0](samples=1, iterations=1, action_block=problem.action_block)
        assert not (drive(build_planner(config), problem, 30, seeds=[0, 1]) < problem.done).any()


def test_progress_never_rises_and_counts_what_was_evaluated() -> None:
    planner = build_planner(
        PLANNERS["cem_gradient"][0](samples=8, iterations=2, elites=2, steps=2, restarts=2)
    )
    counts, lowest = progress(planner, double_integrator(), seeds=[0, 1, 2])
    assert counts == [8, 16, 17, 17 + 6, 17 + 12, 17 + 14]
    assert lowest.shape == (6, 3) and (lowest.diff(dim=0) <= 0).all()


# The registry


def test_every_kind_is_known_by_its_settings() -> None:
    for kind, (config_class, planner_class) in PLANNERS.items():
        config = config_class()
        assert planner_kind(config) == kind
        if kind not in OPTIONAL or importlib.util.find_spec(kind):
            planner = build_planner(config)
            assert type(planner) is planner_class
            assert (planner.horizon, planner.action_block) == (config.horizon, config.action_block)
    with pytest.raises(ValueError, match="dict configures no planner; there are CEMConfig, ICEMConfig"):
        planner_kind({})


def test_the_settings_are_hydra_nodes() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    for config_class, _ in PLANNERS.values():
        node = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(config_class), {"horizon": 7})
        assert omegaconf.OmegaConf.to_object(node) == config_class(horizon=7)


def test_who_needs_gradients_says_so() -> None:
    def blind(plans: Tensor) -> Tensor:
        with torch.no_grad():
            return plans.square().sum(dim=(2, 3, 4))

    for kind, (config_class, _) in PLANNERS.items():
        if kind in OPTIONAL and not importlib.util.find_spec(kind):
            continue
        planner = build_planner(config_class())
        if kind in NEEDS_GRADIENT:
            with pytest.raises(ValueError, match="the cost lets no gradient through; .* such as CEM"):
                planner.plan(blind, BOUNDS, MEAN, STD, seeds=[0])
        else:
            assert planner.plan(blind, BOUNDS, MEAN, STD, seeds=[0]).cost.isfinite().all()


BAD: dict[str, list[Any]] = {
    "samples": [0], "iterations": [0], "horizon": [0], "action_block": [0], "elites": [0, 10**6], "colour": [-1.0],
    "decay": [0.5], "keep": [1.5], "momentum": [1.5], "min_std": [-0.1, float("nan")], "temperature": [0.0],
    "lr": [0.0, INF], "optimizer": ["adagrad"], "spread": [-1.0], "sigma": [0.0], "steps": [0], "restarts": [0],
    "algorithm": ["NGOpt"],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(PLANNERS))
def test_bad_settings_are_named(kind: str) -> None:
    config_class = PLANNERS[kind][0]
    names = set(config_class.__dataclass_fields__)
    assert names <= BAD.keys() | {"correlated", "diagonal"}
    for name in names & BAD.keys():
        for value in BAD[name]:
            with pytest.raises(ValueError, match=rf"Config\.\w+ is {value!r}") as error:
                config_class(**{name: value})
            assert "\n" not in str(error.value)


def test_cma_finds_a_plan_that_is_on_a_bound_in_one_direction_only() -> None:
    """It was told what was evaluated, on the bounds, instead of what it drew, and stalled far from the best plan."""
    pytest.importorskip("cma")
    target = torch.tensor([5.0, 0.3])
    planner = build_planner(CMAESConfig(samples=16, iterations=60, horizon=4))
    plan = planner.plan(
        lambda plans: (plans - target).square().sum(dim=-1).mean(dim=(2, 3)),
        Bounds([-1, -1], [1, 1]), torch.zeros(2), torch.full((2,), 0.5), seeds=[0, 1, 2],
    )  # fmt: skip
    assert (plan.cost - 16.0).abs().max() < 0.05


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_of_nevergrad_gets_better_and_repeats_itself(algorithm: str) -> None:
    pytest.importorskip("nevergrad")
    cost = quadratic(torch.tensor([0.7, -0.7]))

    def run(iterations: int) -> Any:
        config = NevergradConfig(samples=16, iterations=iterations, horizon=3, algorithm=algorithm)
        return build_planner(config).plan(cost, BOUNDS, MEAN, STD, seeds=range(4))

    one, many = run(1), run(16)
    assert (many.cost < one.cost).all()
    assert torch.equal(many.actions, run(16).actions)
    assert (many.actions.abs() <= 1).all()
