"""The cross-entropy method: sample plans, keep the best few, sample again around them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from planners.noise import apply_filter, persistence
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
    # Share of the first iteration's candidates whose noise is correlated over time. With the simulator as cost it saves
    # up to 9 steps on the way to a goal (docs/planners.md, "What each part brings").
    correlated: float = 0.5
    min_std: float = 0.05  # floor of std, as a fraction of the initial std
    momentum: float = (
        0.0  # share of the old mean and std that stays in the new ones; 0.1 brings nothing there
    )

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


class EliteStrategy:
    """A normal distribution over plans that is refitted to the elites: what CEM and its variants share."""

    def __init__(self, search: Search, elites: int, min_std: float, momentum: float) -> None:
        self.search, self.count, self.momentum = search, elites, momentum
        self.mean, self.std = search.mean, search.std
        self.floor = min_std * search.std

    def learn(self, plans: Tensor, costs: Tensor) -> Tensor:
        """Refits the distribution to elites `(E, P, L, K, A)` of `lowest`; returns their mean cost `(E,)`."""
        mean, std, elite_cost = fit(plans, costs)
        if self.momentum:
            mean, std = mean.lerp(self.mean, self.momentum), std.lerp(self.std, self.momentum)
        mean, std = self.search.clip(mean), torch.maximum(std, self.floor)
        if math.inf in elite_cost.tolist():  # nothing finite: stay, and draw again
            learned = elite_cost.isfinite()[:, None, None, None]
            mean, std = torch.where(learned, mean, self.mean), torch.where(learned, std, self.std)
        self.mean, self.std = mean, std
        return elite_cost

    def last(self) -> Tensor:
        return self.mean[:, None]

    def elites(self) -> Tensor | None:
        return None


class _CEM(EliteStrategy):
    def __init__(self, config: CEMConfig, search: Search) -> None:
        super().__init__(search, config.elites, config.min_std, config.momentum)
        self.config = config

    def ask(self, iteration: int) -> Tensor:
        noise = self.search.noise(self.config.samples)
        if iteration == 0:
            noise = correlate(noise, self.config.correlated)
        return self.search.candidates(self.mean, self.std, noise, iteration)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        return self.learn(*lowest(plans, costs, self.count, self.search.rows))


def lowest(plans: Tensor, costs: Tensor, count: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates of lowest cost and their costs, best first.

    Args:
        plans: `(E, S, ...)`.
        costs: `(E, S)`. Ties go to the earlier candidate.
        count: P, how many.
        rows: `(E, 1)`, see `Search.rows`.

    Returns:
        plans `(E, P, ...)` and costs `(E, P)`.
    """
    ranked, order = costs.sort(dim=1, stable=True)
    return plans[rows, order[:, :count]], ranked[:, :count]


def fit(plans: Tensor, costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, population standard deviation (divided by n) and mean cost of elites.

    Args:
        plans: `(E, P, ...)`, best first.
        costs: `(E, P)`, inf for elites that must not count.

    Returns:
        mean `(E, ...)`, std `(E, ...)`, mean cost `(E,)`. Without any finite cost: zeros, zeros, inf.
    """
    std, mean = torch.std_mean(plans, dim=1, correction=0)
    elite_cost = costs.mean(dim=1)
    for row, cost in enumerate(elite_cost.tolist()):
        if cost == math.inf:
            finite = int(costs[row].isfinite().sum())
            std[row], mean[row] = 0, 0
            if finite:
                std[row], mean[row] = torch.std_mean(plans[row, :finite], dim=0, correction=0)
                elite_cost[row] = costs[row, :finite].mean()
    return mean, std, elite_cost


def correlate(noise: Tensor, share: float) -> Tensor:
    """Correlates the last `share` of the candidates in white noise `(E, S, L, K, A)` over time, in place.

    Every other one of them holds its first value throughout the L * K actions; the rest follow a first-order
    autoregressive process whose memory is half the plan. The variance stays 1 at every step.
    """
    samples = noise.shape[1]
    first = samples - round(share * samples)
    if first < samples:
        held, smooth = noise[:, first::2], noise[:, first + 1 :: 2]
        held.copy_(held[:, :, :1, :1].clone().expand_as(held))
        smooth.copy_(apply_filter(persistence(noise.shape[2] * noise.shape[3]), smooth))
    return noise
