"""The cross-entropy method: sample plans, keep the best few, sample again around them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.base import Bounds, Cost, Plan
from planners.search import Search


@dataclass
class CEMConfig:
    """Settings of `CEM`.

    Raises:
        ValueError: a value is out of its range, or there are more elites than samples.
    """

    samples: int = 128  # S, candidates per iteration
    iterations: int = 3  # rounds of drawing and refitting per decision
    elites: int = 24  # the best candidates of an iteration, from which the next one's mean and std are taken
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    correlated: float = 0.5  # share of the first iteration's candidates whose noise is correlated over time
    min_std: float = 0.05  # floor of std, as a fraction of the initial std
    momentum: float = 0.0  # share of the old mean and std that stays in the new ones

    def __post_init__(self) -> None:
        for name in ("samples", "iterations", "elites", "horizon", "action_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"CEMConfig.{name} is {getattr(self, name)}; use at least 1")
        if self.elites > self.samples:
            raise ValueError(
                f"CEMConfig.elites is {self.elites} and samples {self.samples}; use elites <= samples"
            )
        if not 0 <= self.correlated <= 1:
            raise ValueError(f"CEMConfig.correlated is {self.correlated}; use a share from 0 to 1")
        if not 0 <= self.min_std < math.inf:
            raise ValueError(f"CEMConfig.min_std is {self.min_std}; use a finite value of at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"CEMConfig.momentum is {self.momentum}; use a share from 0 to below 1")


class CEM:
    """Cross-entropy method over action sequences, in the environment's units and inside the bounds.

    Every iteration draws S candidates from a normal distribution with independent steps, clips them to the
    bounds, and refits the distribution to the elites. One of the candidates is the mean itself. In the first
    iteration a share is drawn with noise that is correlated over time: with independent noise the steps of a
    plan cancel each other, and no candidate gets far. Returns the best of all candidates and the last mean.

    Source: Rubinstein & Kroese, "The Cross-Entropy Method" (2004). See `Planner` for the contract.
    """

    def __init__(self, config: CEMConfig) -> None:
        self.config = replace(config)  # a checked copy: a later change of the caller's object has no effect

    @property
    def horizon(self) -> int:
        return self.config.horizon

    @property
    def action_block(self) -> int:
        return self.config.action_block

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
        c = self.config
        search = Search(
            cost, bounds, init_mean, init_std, horizon=c.horizon, action_block=c.action_block,
            seeds=seeds, start=start, deadline=deadline,
        )  # fmt: skip
        mean, std = search.mean, search.std
        floor = c.min_std * std
        for iteration in range(c.iterations):
            if not search.has_time():
                break
            noise = search.noise(c.samples)
            if iteration == 0:
                noise = correlate(noise, c.correlated)
            plans = bounds.clip(mean[:, None] + std[:, None] * noise)
            if c.samples > 1 or (iteration == 0 and start is not None):
                plans[:, 0] = mean  # a single sample has to explore instead
            costs = search.evaluate(plans)
            elite_mean, elite_std, elite_cost = refit(plans, costs, c.elites)
            learned = elite_cost.isfinite()[:, None, None, None]  # nothing finite: stay, and draw again
            new_mean = bounds.clip(c.momentum * mean + (1 - c.momentum) * elite_mean)
            new_std = torch.maximum(c.momentum * std + (1 - c.momentum) * elite_std, floor)
            mean, std = torch.where(learned, new_mean, mean), torch.where(learned, new_std, std)
            search.record(costs, elite_cost, std)
        if search.has_time():
            search.evaluate(mean[:, None])
        return search.plan()


def refit(plans: Tensor, costs: Tensor, elites: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, population standard deviation (divided by n) and mean cost of the elites.

    Args:
        plans: `(E, S, ...)`.
        costs: `(E, S)`, inf for candidates that must not count. Ties go to the earlier candidate.
        elites: how many of the lowest costs to use; fewer are used where fewer are finite.

    Returns:
        mean `(E, ...)`, std `(E, ...)`, mean cost `(E,)`. Without any finite cost: zeros, zeros, inf.
    """
    order = costs.argsort(dim=1, stable=True)[:, :elites]
    chosen_cost = costs.gather(1, order)
    finite = chosen_cost.isfinite()
    count = finite.sum(dim=1)
    n = count.clamp(min=1)
    elite_cost = torch.where(finite, chosen_cost, 0).sum(dim=1) / n
    chosen = plans[torch.arange(len(plans), device=plans.device)[:, None], order]
    # Summed over the last, contiguous dimension, where the order of additions, and so the rounding, has no
    # reason to change with the number of environments.
    values = chosen.movedim(1, -1).contiguous()
    weight = finite.to(plans.dtype).view(len(plans), *[1] * (plans.ndim - 2), -1)
    n_plan = n.view(-1, *[1] * (plans.ndim - 2))
    mean = (values * weight).sum(dim=-1) / n_plan
    std = (((values - mean[..., None]).square() * weight).sum(dim=-1) / n_plan).sqrt()
    return mean, std, torch.where(count > 0, elite_cost, torch.inf)


def correlate(noise: Tensor, share: float) -> Tensor:
    """Correlates the last `share` of the candidates in white noise `(E, S, L, K, A)` over time.

    Every other one of them holds its first value throughout the L * K actions; the rest follow a first-order
    autoregressive process whose memory is half the plan. The variance stays 1 at every step.
    """
    samples, steps = noise.shape[1], noise.shape[2] * noise.shape[3]
    count = round(share * samples)
    if count == 0:
        return noise
    rho = torch.full((count, 1), math.exp(-2 / steps), device=noise.device)
    rho[::2] = 1.0
    fresh = (1 - rho.square()).sqrt()
    white = noise[:, samples - count :].flatten(2, 3)  # (E, count, L * K, A)
    path = [white[:, :, 0]]
    for step in range(1, steps):
        path.append(rho * path[-1] + fresh * white[:, :, step])
    smooth = torch.stack(path, dim=2).reshape(len(noise), count, *noise.shape[2:])
    return torch.cat([noise[:, : samples - count], smooth], dim=1)
