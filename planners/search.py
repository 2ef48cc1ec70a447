"""What every search does besides searching: the loop, checks, random numbers, the best candidate, the time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from planners.base import Bounds, Cost, Iteration, Plan
from planners.noise import apply_filter


def derive_seed(seed: int, *key: int) -> int:
    """A seed in 0..2**63-1 that depends on every bit of `seed` and `key`, the same on every machine."""
    words = [seed % 2**32, (seed >> 32) % 2**32, *key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generators(seeds: Tensor | Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per seed: a plan's noise depends neither on its neighbours nor on the device."""
    # torch's CPU generator uses the low 32 bits of a seed only: hash, so that the others count too.
    return [torch.Generator().manual_seed(derive_seed(int(seed)) % 2**32) for seed in seeds]


class Search:
    """The state of one `Planner.plan` call. A planner adds how it draws candidates and learns from them.

    Attributes:
        bounds: of the actions.
        mean: `(E, L, K, A)`, where to start: `start` if given, the first if several, else `init_mean`, inside the
            bounds.
        std: `(E, L, K, A)`, `init_std` for every step.
        rows: `(E, 1)`, 0 to E - 1: `plans[rows, order]` are the candidates `(E, P, L, K, A)` of numbers `order (E, P)`.
        generators: one for each environment. Who draws from them draws equally often for every environment.
        trace: one `Iteration` per call of `record`.
    """

    def __init__(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        horizon: int,
        action_block: int,
        seeds: Tensor | Sequence[int],
        start: Tensor | None,
        deadline: float | None,
    ) -> None:
        self._began = self._marked = time.perf_counter()
        self._pace = 0.0
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline is {deadline}; give seconds above 0, or None for no deadline")
        self.bounds = bounds
        self._cost, self._deadline = cost, deadline
        seeds = torch.as_tensor(seeds)
        if seeds.ndim != 1 or len(seeds) == 0 or seeds.is_floating_point() or seeds.dtype == torch.bool:
            raise ValueError(
                f"seeds have shape {tuple(seeds.shape)} and type {seeds.dtype}; "
                "give one integer per environment"
            )
        self.generators = make_generators(seeds.tolist())
        shape = (len(seeds), horizon, action_block, bounds.action_dim)
        # As large as a plan: broadcasting along a few actions takes several times longer.
        self._low, self._high = (side.expand(shape[1:]).contiguous() for side in (bounds.low, bounds.high))
        mean = _vector("init_mean", init_mean, bounds)
        std = _vector("init_std", init_std, bounds)
        spreads = std.tolist()
        if min(spreads) < 0 or max(spreads) == 0:
            raise ValueError(f"init_std is {spreads}; no value may be negative, at least one must be above 0")
        self._starts = None if start is None else self._checked(start, shape)
        self.mean = self.clip(mean.expand(shape)) if self._starts is None else self._starts[:, 0]
        self.std = std.expand(shape).contiguous()
        self.rows = torch.arange(len(seeds), device=bounds.device)[:, None]
        self.trace: list[Iteration] = []
        self._best = [self.mean]  # of each evaluation, and before them what there is without any
        self._lowest = [torch.full((len(seeds),), torch.inf, device=bounds.device)]

    def _checked(self, start: Tensor, shape: tuple[int, ...]) -> Tensor:
        start = torch.as_tensor(start, dtype=torch.float32, device=self.bounds.device)
        several = start.ndim == 5 and start.shape[1] > 0 and (len(start), *start.shape[2:]) == shape
        if start.shape != shape and not several:
            raise ValueError(
                f"start has shape {tuple(start.shape)}; expected (E, L, K, A) = {shape}, "
                "or (E, P, L, K, A) for P plans"
            )
        if not all(math.isfinite(extreme) for extreme in start.aminmax()):
            raise ValueError("start holds NaN or infinite actions; give a finite plan, or None")
        return self.clip(start if several else start[:, None])

    def clip(self, plans: Tensor) -> Tensor:
        """The nearest plans inside the bounds, `(..., L, K, A)`."""
        return torch.clamp(plans, self._low, self._high)

    def noise(self, samples: int, colour: Tensor | None = None) -> Tensor:
        """Standard normal noise `(E, S, L, K, A)`, each environment's from its own generator.

        Args:
            samples: S.
            colour: `(L * K, L * K)` of `planners.noise.colour`, applied along the plan's actions; None for white.
        """
        envs, *shape = self.mean.shape
        noise = torch.empty(envs, samples, *shape)
        for one, generator in zip(noise.unbind(), self.generators, strict=True):
            one.normal_(generator=generator)
        if colour is not None:
            noise = apply_filter(colour, noise)
        return noise.to(self.mean.device)

    def candidates(self, mean: Tensor, std: Tensor, noise: Tensor, iteration: int) -> Tensor:
        """Plans `(E, S, L, K, A)` inside the bounds, spread around a mean, which is one of them.

        In the first iteration (number 0) the plans to start from are candidates, too, as many as there is room for.
        """
        plans = self.clip(torch.addcmul(mean[:, None], std[:, None], noise))
        if iteration == 0 and self._starts is not None:
            return self.with_starts(plans)
        if plans.shape[1] > 1:
            plans[:, 0] = mean  # a single sample has to explore instead
        return plans

    def with_starts(self, plans: Tensor) -> Tensor:
        """Candidates `(E, S, L, K, A)`, the first of which are replaced by the plans to start from, if any.

        Those that repeat the first one replace none: they would tell nothing, and make the elites look alike.
        """
        if self._starts is not None:
            room = min(plans.shape[1], self._starts.shape[1])
            starts = self._starts[:, :room]
            new = (starts != starts[:, :1]).flatten(2).any(dim=2)
            new[:, 0] = True
            plans[:, :room] = torch.where(new[:, :, None, None, None], starts, plans[:, :room])
        return plans

    def evaluate(self, plans: Tensor) -> Tensor:
        """Costs `(E, S)` of candidates `(E, S, L, K, A)`, inf where not finite; remembers the best candidate.

        Gradients flow only if `plans` asks for them.
        """
        with torch.set_grad_enabled(plans.requires_grad):
            costs = self._cost(plans)
            if costs.shape != plans.shape[:2]:
                raise ValueError(
                    f"the cost returned shape {tuple(costs.shape)} for plans {tuple(plans.shape)}; "
                    f"expected (E, S) = {tuple(plans.shape[:2])}"
                )
            costs = costs.to(device=plans.device, dtype=torch.float32)
            costs = costs.nan_to_num(math.inf, math.inf, math.inf)
        lowest, index = costs.detach().min(dim=1)  # the first of equals
        self._best.append(plans.detach()[self.rows[:, 0], index])
        self._lowest.append(lowest)
        if plans.device.type != "cpu":
            lowest.tolist()  # waits for the device, so that deadline and trace tell the truth
        return costs

    def record(self, costs: Tensor, mean_cost: Tensor, std: Tensor) -> None:
        """Ends an iteration.

        Args:
            costs: `(E, S)`, as `evaluate` returned them.
            mean_cost: `(E,)`, see `Iteration.mean`.
            std: `(E, L, K, A)`, the spread of the next iteration's candidates.
        """
        now = time.perf_counter()
        self._pace, self._marked = now - self._marked, now
        self.trace.append(Iteration(costs.detach(), mean_cost, std, self._pace))

    def has_time(self) -> bool:
        """Whether another iteration would, at the pace of the last one, end before the deadline."""
        if self._deadline is None or not self.trace:
            return True
        return time.perf_counter() - self._began + self._pace <= self._deadline

    def plan(self, elites: Tensor | None = None) -> Plan:
        """The best candidate of every environment so far."""
        cost, index = torch.stack(self._lowest).min(dim=0)
        return Plan(torch.stack(self._best)[index, self.rows[:, 0]], cost, self.trace, elites)


class Strategy(Protocol):
    """How a planner draws candidates and learns from their costs: all that tells planners apart."""

    std: Tensor  # (E, L, K, A), spread of the next candidates

    def ask(self, iteration: int) -> Tensor:
        """Candidates `(E, S, L, K, A)` inside the bounds for iteration 0, 1, ... If they ask for gradients, their costs
        are computed with gradients."""

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        """Learns from what was asked and its costs `(E, S)`, inf where not finite. Returns `Iteration.mean` `(E,)`."""

    def last(self) -> Tensor | None:
        """Candidates `(E, S, L, K, A)` to evaluate at the end, as a refit mean is; None for none."""

    def elites(self) -> Tensor | None:
        """See `Plan.elites`."""


class SearchConfig(Protocol):
    """What the settings of every planner have."""

    iterations: int
    horizon: int
    action_block: int


class SearchPlanner:
    """The loop that all planners share: ask for candidates, evaluate, tell. See `Planner` for the contract.

    One of your own is a subclass with a `strategy`, and settings with `iterations`, `horizon` and `action_block`.

    Args:
        config: a dataclass. Kept as a checked copy: a later change of the caller's object has no effect.
    """

    config: Any

    def __init__(self, config: SearchConfig) -> None:
        self.config = replace(config)  # type: ignore[type-var]

    @property
    def horizon(self) -> int:
        """L."""
        return int(self.config.horizon)

    @property
    def action_block(self) -> int:
        """K."""
        return int(self.config.action_block)

    def strategy(self, search: Search) -> Strategy:
        """A new strategy for one search."""
        raise NotImplementedError

    @torch.no_grad()
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
        search = Search(
            cost, bounds, init_mean, init_std, horizon=self.horizon, action_block=self.action_block,
            seeds=seeds, start=start, deadline=deadline,
        )  # fmt: skip
        strategy = self.strategy(search)
        for iteration in range(self.config.iterations):
            if not search.has_time():
                break
            plans = strategy.ask(iteration)
            costs = search.evaluate(plans)
            mean_cost = strategy.tell(plans, costs)
            search.record(costs, mean_cost, strategy.std)
        last = strategy.last()
        if last is not None and search.has_time():
            search.evaluate(last)
        return search.plan(strategy.elites())


def finite_mean(costs: Tensor) -> Tensor:
    """Mean `(E,)` of the finite ones among costs `(E, S)`; inf without any."""
    mean = costs.mean(dim=1)
    if math.inf in mean.tolist():
        finite = costs.isfinite()
        mean = torch.where(finite, costs, 0).sum(dim=1) / finite.sum(dim=1)
        mean = torch.where(finite.any(dim=1), mean, torch.inf)
    return mean.maximum(costs.amin(dim=1))  # a mean of equal costs may round to less than each of them


def check_counts(config: object, *names: str) -> None:
    """Raises `ValueError` if one of these settings is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{type(config).__name__}.{name} is {getattr(config, name)}; use at least 1")


def check_range(config: object, name: str, low: float, high: float = math.inf, above: bool = False) -> None:
    """Raises `ValueError` unless a setting is finite and from `low` (or above it) to `high`."""
    value = getattr(config, name)
    if not (low < value if above else low <= value) or not value <= high or value == math.inf:
        least = f"above {low:g}" if above else f"of at least {low:g}"
        most = f" and at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{type(config).__name__}.{name} is {value}; use a finite value {least}{most}")


def _vector(name: str, value: Tensor, bounds: Bounds) -> Tensor:
    vector = torch.as_tensor(value, dtype=torch.float32, device=bounds.device)
    if vector.shape != bounds.low.shape:
        raise ValueError(f"{name} has shape {tuple(vector.shape)}; the bounds have {tuple(bounds.low.shape)}")
    values = vector.tolist()
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name} is {values}; give finite values")
    return vector
