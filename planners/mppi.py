"""Model-predictive path integral control: all candidates count, the better ones exponentially more."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.cem import moments
from planners.noise import colour
from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range


@dataclass
class MPPIConfig:
    """Settings of `MPPI`.

    Raises:
        ValueError: a value is out of its range.
    """

    samples: int = 128  # S, candidates per iteration
    iterations: int = 3  # rounds of drawing and weighting per decision
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    temperature: float = 0.1  # of the weights exp(-cost / temperature); see `MPPI` for the unit of the cost
    colour: float = 2.0  # exponent of the noise's spectrum 1 / f**colour; 0: white, larger: smoother plans
    min_std: float = 0.05  # floor of std, as a fraction of the initial std

    def __post_init__(self) -> None:
        check_counts(self, "samples", "iterations", "horizon", "action_block")
        check_range(self, "temperature", 0, above=True)
        check_range(self, "colour", 0, 10)
        check_range(self, "min_std", 0)


class MPPI(SearchPlanner):
    """Path integral control: the next mean is the candidates' mean, weighted by exp(-cost / temperature).

    Costs are measured from the best candidate, in units of the gap between the best and the median. So a temperature
    means the same for costs of any size and offset, and a few very bad candidates do not make all others look alike.
    The spread is refitted with the same weights, as in TD-MPC2 (2310.16828), down to `min_std`. Noise is correlated
    over time. There is no term for control effort: that is the cost's business.

    Where two ways lead to the goal, the weighted mean may lie between them. It is only where the next candidates are
    drawn from: the plan returned is the best candidate of all.

    Source: Williams et al., "Information Theoretic MPC for Model-Based Reinforcement Learning" (ICRA 2017).
    """

    config: MPPIConfig

    def strategy(self, search: Search) -> Strategy:
        return _MPPI(self.config, search)


class _MPPI:
    def __init__(self, config: MPPIConfig, search: Search) -> None:
        self.config, self.search = config, search
        self.mean, self.std = search.mean, search.std
        self.floor = config.min_std * search.std
        self.colour = colour(config.horizon * config.action_block, config.colour) if config.colour else None

    def ask(self, iteration: int) -> Tensor:
        noise = self.search.noise(self.config.samples, self.colour)
        return self.search.candidates(self.mean, self.std, noise, iteration)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        weights = path_weights(costs, self.config.temperature)
        total = weights.sum(dim=1)
        learned = (total > 0)[:, None, None, None]  # nothing finite: stay, and draw again
        mean, std = moments(plans, weights, total.clamp(min=1))  # the best one weighs 1
        self.mean = torch.where(learned, self.search.bounds.clip(mean), self.mean)
        self.std = torch.where(learned, torch.maximum(std, self.floor), self.std)
        mean_cost = (weights * torch.where(costs.isfinite(), costs, 0)).sum(dim=1) / total
        return torch.where(total > 0, mean_cost.maximum(costs.amin(dim=1)), torch.inf)

    def last(self) -> Tensor:
        return self.mean[:, None]

    def elites(self) -> None:
        return None


def path_weights(costs: Tensor, temperature: float) -> Tensor:
    """Weights `(E, S)` from 0 to 1 of candidates with costs `(E, S)`: 1 for the best, 0 where a cost is infinite.

    The unit of the temperature is the gap between the best and the median of the finite costs.
    """
    finite = costs.isfinite()
    best = costs.amin(dim=1, keepdim=True)
    above = torch.where(finite, costs - best, 0)
    middle = (finite.sum(dim=1, keepdim=True) - 1).clamp(min=0) // 2
    gap = torch.where(finite, above, torch.inf).sort(dim=1).values.gather(1, middle)
    # A gap of 0: half of the candidates are the best, and they share the weight.
    scaled = torch.where(above > 0, above / (temperature * gap), 0)
    return torch.where(finite, (-scaled).exp(), 0)
