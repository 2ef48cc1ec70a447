"""One planner after another: a sampling planner chooses the valley, gradients find its bottom."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.base import Bounds, Cost, Plan, Planner
from planners.cem import CEM, CEMConfig
from planners.gradient import Gradient, GradientConfig
from planners.search import derive_seed


class Refine:
    """Hands the plan of `first`, and its elites if it has some, to `then` to start from. Returns the better outcome.

    Of a deadline, `then` gets what `first` left; if that is less than an iteration took, it does not run. The trace
    holds both searches.
    Works with any two planners: `Refine(CEM(...), Gradient(...))`. See `Planner` for the contract.

    Raises:
        ValueError: the two make plans of different sizes.
    """

    def __init__(self, first: Planner, then: Planner) -> None:
        sizes = [(planner.horizon, planner.action_block) for planner in (first, then)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"Refine: the first planner's (horizon, action_block) is {sizes[0]}, the second's {sizes[1]}; "
                "give both the same"
            )
        self.first, self.then = first, then

    @property
    def horizon(self) -> int:
        """L."""
        return self.first.horizon

    @property
    def action_block(self) -> int:
        """K."""
        return self.first.action_block

    @property
    def memory(self) -> int:
        """How many elites a plan carries, see `Planner`."""
        return getattr(self.first, "memory", 0)

    def plan(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        seeds: Tensor | Sequence[int],
        start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """See `Planner.plan`."""
        began = time.perf_counter()
        found = self.first.plan(
            cost, bounds, init_mean, init_std, seeds=seeds, start=start, deadline=deadline
        )
        if deadline is not None:
            deadline -= time.perf_counter() - began
            if deadline < found.trace[-1].seconds:  # the first iteration of a search always runs
                return found
        starts = found.actions[:, None]
        if found.elites is not None:
            starts = torch.cat([starts, found.elites], dim=1)
        refined = self.then.plan(
            cost, bounds, init_mean, init_std,
            seeds=[derive_seed(int(seed), 1) for seed in seeds], start=starts, deadline=deadline,
        )  # fmt: skip
        better = refined.cost < found.cost
        return replace(
            found,
            actions=torch.where(better[:, None, None, None], refined.actions, found.actions),
            cost=torch.where(better, refined.cost, found.cost),
            trace=[*found.trace, *refined.trace],
        )


@dataclass
class CEMGradientConfig(CEMConfig):
    """Settings of `CEMGradient`: those of CEM, and of the descent after it.

    Raises:
        ValueError: a value is out of its range, or the optimizer is unknown.
    """

    steps: int = 10  # gradient steps after CEM
    restarts: int = 4  # plans that descend: CEM's, and others near it
    optimizer: str = "adam"  # adam or sgd
    lr: float = 0.1  # step size of the descent; the unit of an action is its initial std
    spread: float = 0.3  # how far the other plans lie from CEM's, as a fraction of the initial std

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gradient()

    def gradient(self) -> GradientConfig:
        """The settings of the second part."""
        return GradientConfig(
            self.restarts,
            self.steps,
            self.horizon,
            self.action_block,
            self.optimizer,
            self.lr,
            0.0,
            self.spread,
        )


class CEMGradient(Refine):
    """CEM, then gradient descent from its plan. Needs a cost that lets gradients through."""

    def __init__(self, config: CEMGradientConfig) -> None:
        self.config = replace(config)
        super().__init__(CEM(self.config), Gradient(self.config.gradient()))
