"""What every search does besides searching: checks, random numbers, the best candidate, the time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from planners.base import Bounds, Cost, Iteration, Plan


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
        mean: `(E, L, K, A)`, where to start: `start` if given, else `init_mean`, inside the bounds.
        std: `(E, L, K, A)`, `init_std` for every step.
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
        self._cost, self._bounds, self._deadline = cost, bounds, deadline
        seeds = torch.as_tensor(seeds)
        if seeds.ndim != 1 or len(seeds) == 0 or seeds.is_floating_point() or seeds.dtype == torch.bool:
            raise ValueError(
                f"seeds have shape {tuple(seeds.shape)} and type {seeds.dtype}; "
                "give one integer per environment"
            )
        self._generators = make_generators(seeds.tolist())
        shape = (len(seeds), horizon, action_block, bounds.action_dim)
        mean = _vector("init_mean", init_mean, bounds)
        std = _vector("init_std", init_std, bounds)
        if (std < 0).any() or not (std > 0).any():
            raise ValueError(
                f"init_std is {std.tolist()}; no value may be negative and at least one must be above 0"
            )
        if start is not None:
            start = torch.as_tensor(start, dtype=torch.float32, device=bounds.device)
            if start.shape != shape:
                raise ValueError(f"start has shape {tuple(start.shape)}; expected (E, L, K, A) = {shape}")
            if not start.isfinite().all():
                raise ValueError("start holds NaN or infinite actions; give a finite plan, or None")
        self.mean = bounds.clip(mean.expand(shape) if start is None else start)
        self.std = std.expand(shape)
        self.trace: list[Iteration] = []
        self._best = self.mean.clone()
        self._best_cost = torch.full((len(seeds),), torch.inf, device=bounds.device)

    def noise(self, samples: int) -> Tensor:
        """White standard normal noise `(E, S, L, K, A)`, each environment's from its own generator."""
        shape = (samples, *self.mean.shape[1:])
        drawn = [torch.randn(shape, generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.mean.device)

    def evaluate(self, plans: Tensor) -> Tensor:
        """Costs `(E, S)` of candidates `(E, S, L, K, A)`, inf where not finite; remembers the best candidate.

        Gradients flow only if `plans` asks for them.
        """
        with torch.set_grad_enabled(plans.requires_grad):
            costs = self._cost(plans)
            if tuple(costs.shape) != tuple(plans.shape[:2]):
                raise ValueError(
                    f"the cost returned shape {tuple(costs.shape)} for plans {tuple(plans.shape)}; "
                    f"expected (E, S) = {tuple(plans.shape[:2])}"
                )
            costs = costs.to(device=plans.device, dtype=torch.float32)
            costs = torch.where(costs.isfinite(), costs, torch.inf)
        with torch.no_grad():
            lowest, index = costs.detach().min(dim=1)
            better = lowest < self._best_cost
            best = plans.detach()[torch.arange(len(plans), device=plans.device), index]
            self._best = torch.where(better[:, None, None, None], best, self._best)
            self._best_cost = torch.where(better, lowest, self._best_cost)
            better.any().item()  # waits for an asynchronous device, so that deadline and trace tell the truth
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
        self.trace.append(
            Iteration(
                best=costs.detach().amin(dim=1).cpu(),
                mean=mean_cost.detach().cpu(),
                std=std.flatten(1).mean(dim=1).cpu(),
                nonfinite=costs.isinf().sum(dim=1).cpu(),
                seconds=self._pace,
            )
        )

    def has_time(self) -> bool:
        """Whether another iteration would, at the pace of the last one, end before the deadline."""
        if self._deadline is None or not self.trace:
            return True
        return time.perf_counter() - self._began + self._pace <= self._deadline

    def plan(self) -> Plan:
        """The best candidate of every environment so far."""
        return Plan(self._best, self._best_cost, self.trace)


def _vector(name: str, value: Tensor, bounds: Bounds) -> Tensor:
    vector = torch.as_tensor(value, dtype=torch.float32, device=bounds.device)
    if vector.shape != bounds.low.shape:
        raise ValueError(f"{name} has shape {tuple(vector.shape)}; the bounds have {tuple(bounds.low.shape)}")
    if not vector.isfinite().all():
        raise ValueError(f"{name} is {vector.tolist()}; give finite values")
    return vector
