"""The types that planners, costs and the MPC agent share.

Letters for shapes: E environments planned for at once, S candidate plans, L plan length in model steps,
K environment actions per model step, A action dimensions, M context steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Cost(Protocol):
    """Any callable from candidate plans to numbers.

    A cost that is NaN or infinite counts as a failed evaluation: such a candidate ranks last. Planners that follow
    gradients need a cost made of torch operations, without `torch.no_grad`; for all others anything will do.
    """

    def __call__(self, plans: Tensor, /) -> Tensor:
        """Plans `(E, S, L, K, A)` float32, in the environment's units -> costs `(E, S)`, lower is better."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Action bounds in the environment's own units: `low (A,)` and `high (A,)`, float32.

    Sides may be infinite and asymmetric; `low == high` fixes a dimension. Arrays and lists are converted.

    Raises:
        ValueError: shapes differ or are not `(A,)`, a value is NaN, or no finite action lies between the two.
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32).detach().clone()
            object.__setattr__(self, name, value)
        low, high = self.low, self.high
        if low.ndim != 1 or low.shape != high.shape or len(low) == 0:
            raise ValueError(
                f"Bounds: low has shape {tuple(low.shape)} and high {tuple(high.shape)}; "
                "give two vectors of the same length (A,)"
            )
        bad = ~(low <= high) | (low == torch.inf) | (high == -torch.inf)
        if bad.any():
            a = int(bad.nonzero()[0])
            raise ValueError(
                f"Bounds: no action of dimension {a} lies between low={float(low[a])} and "
                f"high={float(high[a])}; give low <= high without NaN"
            )

    @property
    def action_dim(self) -> int:
        return len(self.low)

    @property
    def device(self) -> torch.device:
        return self.low.device

    def clip(self, actions: Tensor) -> Tensor:
        """The nearest actions inside the bounds, for any shape `(..., A)`."""
        return torch.clamp(actions, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Iteration:
    """What one iteration of a search did. Its tensors stay where they are until somebody asks: `(E,)` on the CPU."""

    costs: Tensor  # (E, S), of this iteration's candidates; inf where NaN or infinite
    mean_cost: Tensor  # (E,), see `mean`
    spread: Tensor  # (E, L, K, A), standard deviation of the next iteration's candidates, environment units
    seconds: float

    @property
    def best(self) -> Tensor:
        """Lowest cost among this iteration's candidates; inf if none was finite."""
        return self.costs.amin(dim=1).cpu()

    @property
    def mean(self) -> Tensor:
        """Mean cost of the candidates that it learned from; inf if none was finite.

        CEM: the elites; iCEM: also those it remembered.
        """
        return self.mean_cost.cpu()

    @property
    def std(self) -> Tensor:
        """Mean of `spread` over the plan."""
        return self.spread.flatten(1).mean(dim=1).cpu()

    @property
    def nonfinite(self) -> Tensor:
        """How many candidates' cost was NaN or infinite, int64."""
        return self.costs.isinf().sum(dim=1).cpu()


@dataclass(frozen=True, eq=False)
class Plan:
    """The outcome of a search.

    `actions (E, L, K, A)` lie inside the bounds; `cost (E,)` is what the cost said about exactly these
    actions. Where no candidate had a finite cost, `cost` is inf and `actions` are what the search began with.
    `trace` has one entry per iteration run, fewer than configured if a deadline cut the search short.
    `elites (E, P, L, K, A)` are good candidates, best first, for the next search to start from beside what is left of
    this plan; None where a planner remembers nothing.
    """

    actions: Tensor
    cost: Tensor
    trace: list[Iteration] = field(default_factory=list)
    elites: Tensor | None = None


class Planner(Protocol):
    """Searches for the action sequence of lowest cost.

    The contract, held by `tests/planners/test_planner_contract.py`: no candidate ever leaves the bounds; an
    environment's plan depends on its own seed and cost only, not on who is planned beside it; the same seed
    gives the same plan; candidates without a finite cost rank last; the best candidate seen is returned, and
    `start`, if given, is one of the candidates.

    A planner that remembers elites has an attribute `memory`, how many: an `MPCAgent` shifts them with its plan.
    """

    @property
    def horizon(self) -> int:
        """L, the plan's length in model steps."""

    @property
    def action_block(self) -> int:
        """K, environment actions per model step."""

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
        """Search once for E environments.

        Args:
            cost: see `Cost`. It may compute on another device than that of the bounds.
            bounds: the search runs on their device. The CPU is a good choice also for a model on a GPU: the
                search handles a few thousand numbers, so launching kernels takes longer than computing.
            init_mean: `(A,)`, centre of the first candidates, usually the mean of the data's actions.
            init_std: `(A,)`, their spread, usually the standard deviation of the data's actions.
            seeds: `(E,)` integers, one per environment.
            start: `(E, L, K, A)`, a plan to improve on: the initial mean, and one of the candidates. Or
                `(E, P, L, K, A)`, several: the first is the mean, and as many as there is room for are candidates,
                but for those that repeat the first.
            deadline: seconds. The first iteration always runs; a further one is begun only if, at the pace of
                the last, it ends in time. A plan then depends on the machine's speed, not on the seed alone.

        Raises:
            ValueError: an argument or the cost's answer has the wrong shape or is not finite.
        """


@dataclass(frozen=True, eq=False)
class History:
    """What an agent knows when it plans, for the E environments to plan for. The latest step comes last.

    Where an episode has just begun, only the last `length` observations and `length - 1` actions are real;
    before them the first observation is repeated and the actions are zero.
    """

    observations: Tensor  # (E, M, ...), as the cost factory's `encode` returned them, or raw if it has none
    past_actions: Tensor  # (E, M - 1, K, A) float32: past_actions[:, m] led from observation m to m + 1
    length: Tensor  # (E,) int64, 1..M
    goals: Tensor  # (E, ...), encoded like the observations
    rows: Tensor  # (E,) int64, which of the agent's environments these are
