"""Model-predictive path integral control: all candidates count, the better ones exponentially more."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
        mean, std, mean_cost = moments(plans, weights, costs)
        mean, std = self.search.clip(mean), torch.maximum(std, self.floor)
        if math.inf in mean_cost.tolist():  # nothing finite: stay, and draw again
            learned = mean_cost.isfinite()[:, None, None, None]
            mean, std = torch.where(learned, mean, self.mean), torch.where(learned, std, self.std)
        self.mean, self.std = mean, std
        return mean_cost

    def last(self) -> Tensor:
        return self.mean[:, None]

    def elites(self) -> None:
        return None


def path_weights(costs: Tensor, temperature: float) -> Tensor:
    """Weights `(E, S)` from 0 to 1 of candidates with costs `(E, S)`: 1 for the best, 0 where a cost is infinite.

    The unit of the temperature is the gap between the best and the median of the finite costs.
    """
    above = costs - costs.amin(dim=1, keepdim=True)  # NaN if none is finite
    middle = (costs.isfinite().sum(dim=1, keepdim=True) - 1).clamp(min=0) // 2
    gap = above.sort(dim=1).values.gather(1, middle)
    # A gap of 0: half of the candidates are the best, and they share the weight.
    scaled = above / (-temperature * gap).clamp(max=-torch.finfo(gap.dtype).tiny)
    return scaled.exp().nan_to_num(nan=0.0)


def moments(plans: Tensor, weights: Tensor, costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean `(E, ...)`, standard deviation `(E, ...)` and mean cost `(E,)` of plans `(E, S, ...)`.

    Args:
        plans: `(E, S, ...)`.
        weights: `(E, S)`, 1 for the best; 0 where the cost is infinite.
        costs: `(E, S)`.

    Returns:
        Without any finite cost: zeros, zeros, inf.
    """
    total = weights.sum(dim=1, keepdim=True)
    share = weights / total.clamp(min=1)
    # Summed over the last, contiguous dimension, where the order of additions, and so the rounding, has no reason to
    # change with the number of environments.
    values = plans.flatten(2).mT.contiguous()
    mean = (values * share[:, None]).sum(dim=-1)
    std = ((values - mean[..., None]).square_() * share[:, None]).sum(dim=-1).sqrt()
    shape, best = (len(plans), *plans.shape[2:]), costs.amin(dim=1)
    # From the best on: 0 * inf is no number, and a mean of equal costs may round to less than each of them.
    above = ((costs - best[:, None]).nan_to_num(0.0, 0.0) * share).sum(dim=1)
    return mean.view(shape), std.view(shape), best + above
