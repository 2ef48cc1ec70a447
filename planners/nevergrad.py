"""Optimizers of the package `nevergrad`: evolution strategies and differential evolution."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range, finite_mean

#: Names in `nevergrad.optimizers.registry`. Others, NGOpt among them, run some searches in threads of their own, which
#: keep the process from ending where a search stops early; and NGOpt fails with numpy 2.4 (nevergrad 1.0.12).
ALGORITHMS = ("CMA", "DiagonalCMA", "DE", "TwoPointsDE")


@dataclass
class NevergradConfig:
    """Settings of `Nevergrad`.

    Raises:
        ValueError: a value is out of its range.
    """

    samples: int = 64  # S, candidates per iteration
    iterations: int = 10  # with `samples` the budget that an algorithm is told
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    algorithm: str = "CMA"  # one of ALGORITHMS
    sigma: float = 1.0  # spread of the first candidates, as a fraction of the initial std

    def __post_init__(self) -> None:
        check_counts(self, "samples", "iterations", "horizon", "action_block")
        check_range(self, "sigma", 0, above=True)
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"NevergradConfig.algorithm is {self.algorithm!r}; choose one of {', '.join(ALGORITHMS)}"
            )


class Nevergrad(SearchPlanner):
    """Runs one optimizer of `nevergrad` for each environment.

    Candidates outside the bounds are put on them, and their cost rises by how far outside they were, in units of the
    gap between the best and the worst of the iteration; failed ones count as that gap above the worst.

    Source: Rapin & Teytaud, "Nevergrad: a gradient-free optimization platform" (2018).

    Raises:
        ValueError: `nevergrad` is not installed.
    """

    config: NevergradConfig

    def __init__(self, config: NevergradConfig) -> None:
        super().__init__(config)
        import_nevergrad()

    def strategy(self, search: Search) -> Strategy:
        return _Nevergrad(self.config, search)


class _Nevergrad:
    def __init__(self, config: NevergradConfig, search: Search) -> None:
        self.config, self.search, self.std = config, search, config.sigma * search.std
        self.unit = torch.where(search.std > 0, search.std, 1)[:, None]
        self.optimizers = [self._optimizer(generator) for generator in search.generators]

    def _optimizer(self, generator: torch.Generator) -> Any:
        c, package = self.config, import_nevergrad()
        space = package.p.Array(shape=(self.search.mean[0].numel(),)).set_mutation(sigma=c.sigma)
        space.random_state = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
        return package.optimizers.registry[c.algorithm](
            space, c.samples * c.iterations, num_workers=c.samples
        )

    def ask(self, iteration: int) -> Tensor:
        search, shape = self.search, self.search.mean.shape
        mean = search.mean[:, None].repeat(1, self.config.samples, 1, 1, 1)
        starts = search.with_starts(mean.clone()) if iteration == 0 else mean
        given = (starts != mean).flatten(2).any(dim=2)
        given[:, 0] = iteration == 0  # the mean is a candidate, too
        values = ((starts - mean) / self.unit).flatten(2).cpu().numpy().astype(float)
        self.asked: list[list[Any]] = []
        for row, optimizer in enumerate(self.optimizers):
            self.asked.append([])
            for number, suggest in enumerate(given[row].tolist()):
                if suggest:
                    optimizer.suggest(values[row, number])
                self.asked[row].append(optimizer.ask())
        drawn = np.array([[one.value for one in candidates] for candidates in self.asked])
        self.drawn = torch.from_numpy(drawn).to(search.mean).view(*mean.shape[:2], *shape[1:])
        plans = search.clip(mean + search.std[:, None] * self.drawn)
        return torch.where(given[:, :, None, None, None], starts, plans)

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        evaluated = (plans - self.search.mean[:, None]) / self.unit
        outside = (evaluated - self.drawn).square().flatten(2).mean(dim=2)
        finite = costs.isfinite()
        worst = torch.where(finite, costs, -torch.inf).amax(dim=1, keepdim=True)
        gap = (worst - costs.amin(dim=1, keepdim=True)).clamp_min(1e-6)
        losses = torch.where(finite, costs, worst + gap) + gap * outside
        for row, some in enumerate(finite.any(dim=1).tolist()):
            if some:  # else: stay, and draw again
                for candidate, loss in zip(self.asked[row], losses[row].tolist(), strict=True):
                    self.optimizers[row].tell(candidate, loss)
        self.std = plans.std(dim=1, correction=0)  # of these candidates: what comes next, nobody says
        return finite_mean(costs)

    def last(self) -> Tensor:
        values = np.array([optimizer.recommend().value for optimizer in self.optimizers])
        centre = torch.from_numpy(values).to(self.search.mean).view_as(self.search.mean)
        return self.search.clip(self.search.mean + self.search.std * centre)[:, None]

    def elites(self) -> None:
        return None


def import_nevergrad() -> Any:
    """The package `nevergrad`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("nevergrad")
    except ImportError as error:
        raise ValueError(
            "the planner nevergrad needs the package nevergrad; pip install nevergrad"
        ) from error
