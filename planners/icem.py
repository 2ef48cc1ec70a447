"""iCEM: the cross-entropy method with coloured noise and, if asked, a memory of elites and fewer samples each round."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.cem import EliteStrategy, lowest
from planners.noise import colour
from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range


@dataclass
class ICEMConfig:
    """Settings of `ICEM`.

    Raises:
        ValueError: a value is out of its range, or there are more elites than samples.
    """

    samples: int = 128  # S, candidates of the first iteration
    iterations: int = 3  # rounds of drawing and refitting per decision
    elites: int = 12  # the best candidates, from which the next mean and std are taken
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    # Figures are of docs/planners.md, "What each part brings": goals of 100 with the simulator as cost.
    # Exponent of the noise's spectrum 1 / f**colour; 0: white, larger: smoother plans. Brings 12 to 30 goals.
    colour: float = 2.0
    # Each iteration draws this many times fewer than the last, at least 2 * elites. 1.25, as published, brings
    # nothing beyond the interval (-4 to +5 goals).
    decay: float = 1.0
    # Share of the elites remembered, within a search and, by an MPCAgent, for the next one. 0.3, as published, brings
    # nothing beyond the interval (-2 to +3 goals).
    keep: float = 0.0
    min_std: float = 0.05  # floor of std, as a fraction of the initial std
    # Share of the old mean and std that stays in the new ones. Goals are within the interval; in one world of three it
    # saves a step.
    momentum: float = 0.1

    def __post_init__(self) -> None:
        check_counts(self, "samples", "iterations", "elites", "horizon", "action_block")
        if self.elites > self.samples:
            raise ValueError(
                f"ICEMConfig.elites is {self.elites} and samples {self.samples}; use elites <= samples"
            )
        check_range(self, "colour", 0, 10)
        check_range(self, "decay", 1)
        check_range(self, "keep", 0, 1)
        check_range(self, "min_std", 0)
        check_range(self, "momentum", 0, 0.99)


class ICEM(SearchPlanner):
    """CEM that needs fewer samples.

    Noise is coloured, so that candidates go on in the direction they take. With `keep`, a share of the elites competes
    again in the next iteration, and is shifted along with the plan into the next decision's candidates; with `decay`,
    every iteration draws fewer. Elites keep the cost that they have, and are not evaluated twice.

    Source: Pinneri et al., "Sample-efficient Cross-Entropy Method for Real-time Planning" (2020), 2008.06389. Other
    than there, the mean is a candidate of every iteration, and the plan is the best candidate of all.
    """

    config: ICEMConfig

    @property
    def memory(self) -> int:
        """How many elites a plan carries, see `Planner`."""
        return round(self.config.keep * self.config.elites)

    def strategy(self, search: Search) -> Strategy:
        return _ICEM(self.config, self.memory, search)


class _ICEM(EliteStrategy):
    def __init__(self, config: ICEMConfig, memory: int, search: Search) -> None:
        super().__init__(search, config.elites, config.min_std, config.momentum)
        self.counts, self.memory = sample_counts(config), memory
        self.colour = colour(config.horizon * config.action_block, config.colour) if config.colour else None
        self.kept: tuple[Tensor, Tensor] | None = None  # plans (E, P, L, K, A) and their costs (E, P)

    def ask(self, iteration: int) -> Tensor:
        noise = self.search.noise(self.counts[iteration], self.colour)
        return self.search.candidates(self.mean, self.std, noise, iteration)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        if self.kept is not None:
            plans, costs = torch.cat([plans, self.kept[0]], dim=1), torch.cat([costs, self.kept[1]], dim=1)
        plans, costs = lowest(plans, costs, self.count, self.search.rows)
        if self.memory:
            self.kept = plans[:, : self.memory], costs[:, : self.memory]
        return self.learn(plans, costs)

    def elites(self) -> Tensor | None:
        return None if self.kept is None else self.kept[0]


def sample_counts(config: ICEMConfig) -> list[int]:
    """How many candidates each iteration draws."""
    least = min(2 * config.elites, config.samples)
    return [max(round(config.samples * config.decay**-i), least) for i in range(config.iterations)]
