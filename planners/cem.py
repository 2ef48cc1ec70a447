"""The cross-entropy method: sample plans, keep the best few, sample again around them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from planners.search import Search, SearchPlanner, Strategy


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


class CEM(SearchPlanner):
    """Cross-entropy method over action sequences, in the environment's units and inside the bounds.

    Every iteration draws S candidates from a normal distribution with independent steps, clips them to the
    bounds, and refits the distribution to the elites. One of the candidates is the mean itself. In the first
    iteration a share is drawn with noise that is correlated over time: with independent noise the steps of a
    plan cancel each other, and no candidate gets far. Returns the best of all candidates and the last mean.

    Source: Rubinstein & Kroese, "The Cross-Entropy Method" (2004). See `Planner` for the contract.
    """

    config: CEMConfig

    def strategy(self, search: Search) -> Strategy:
        return _CEM(self.config, search)


class _CEM:
    def __init__(self, config: CEMConfig, search: Search) -> None:
        self.config, self.search = config, search
        self.mean, self.std = search.mean, search.std
        self.floor = config.min_std * search.std

    def ask(self, iteration: int) -> Tensor:
        noise = self.search.noise(self.config.samples)
        if iteration == 0:
            noise = correlate(noise, self.config.correlated)
        return self.search.candidates(self.mean, self.std, noise, iteration)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        c = self.config
        mean, std, elite_cost = refit(plans, costs, c.elites)
        learned = elite_cost.isfinite()[:, None, None, None]  # nothing finite: stay, and draw again
        mean = self.search.bounds.clip(c.momentum * self.mean + (1 - c.momentum) * mean)
        std = torch.maximum(c.momentum * self.std + (1 - c.momentum) * std, self.floor)
        self.mean, self.std = torch.where(learned, mean, self.mean), torch.where(learned, std, self.std)
        return elite_cost

    def last(self) -> Tensor:
        return self.mean[:, None]

    def elites(self) -> None:
        return None


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
    mean, std = moments(chosen, finite.to(plans.dtype), n)
    return mean, std, torch.where(count > 0, elite_cost, torch.inf)


def moments(plans: Tensor, weights: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation `(E, ...)` of plans `(E, S, ...)`.

    Args:
        plans: `(E, S, ...)`.
        weights: `(E, S)`.
        total: `(E,)`, what the weights are divided by; above 0.
    """
    # Summed over the last, contiguous dimension, where the order of additions, and so the rounding, has no
    # reason to change with the number of environments.
    values = plans.movedim(1, -1).contiguous()
    weights = weights.view(len(plans), *[1] * (plans.ndim - 2), -1)
    total = total.view(-1, *[1] * (plans.ndim - 2))
    mean = (values * weights).sum(dim=-1) / total
    std = (((values - mean[..., None]).square() * weights).sum(dim=-1) / total).sqrt()
    return mean, std


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
