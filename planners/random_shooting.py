"""Random shooting: the best of many random plans. The baseline that a search has to beat."""

from dataclasses import dataclass

from torch import Tensor

from planners.noise import colour
from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range, finite_mean


@dataclass
class RandomShootingConfig:
    """Settings of `RandomShooting`.

    Raises:
        ValueError: a value is out of its range.
    """

    samples: int = 128  # S, candidates per iteration
    iterations: int = 3  # rounds per decision; all are drawn alike, so only a deadline makes a difference
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    colour: float = 2.0  # exponent of the noise's spectrum 1 / f**colour; 0: white, larger: smoother plans

    def __post_init__(self) -> None:
        check_counts(self, "samples", "iterations", "horizon", "action_block")
        check_range(self, "colour", 0, 10)


class RandomShooting(SearchPlanner):
    """Draws around the initial mean, again and again, and returns the best candidate. Learns nothing."""

    config: RandomShootingConfig

    def strategy(self, search: Search) -> Strategy:
        return _RandomShooting(self.config, search)


class _RandomShooting:
    def __init__(self, config: RandomShootingConfig, search: Search) -> None:
        self.config, self.search, self.std = config, search, search.std
        self.colour = colour(config.horizon * config.action_block, config.colour) if config.colour else None

    def ask(self, iteration: int) -> Tensor:
        noise = self.search.noise(self.config.samples, self.colour)
        return self.search.candidates(self.search.mean, self.std, noise, iteration)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        return finite_mean(costs)

    def last(self) -> None:
        return None

    def elites(self) -> None:
        return None
