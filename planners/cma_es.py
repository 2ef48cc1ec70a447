"""CMA-ES of the package `cma`: a search that also learns which actions go together."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range, finite_mean


@dataclass
class CMAESConfig:
    """Settings of `CMAES`.

    Raises:
        ValueError: a value is out of its range.
    """

    samples: int = 64  # S, candidates per iteration
    iterations: int = 10  # it needs several to learn anything
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    sigma: float = 1.0  # spread of the first candidates, as a fraction of the initial std
    diagonal: bool = False  # variances only: for plans of many numbers

    def __post_init__(self) -> None:
        check_counts(self, "iterations", "horizon", "action_block")
        if self.samples < 2:
            raise ValueError(
                f"CMAESConfig.samples is {self.samples}; use at least 2, for it compares candidates"
            )
        check_range(self, "sigma", 0, above=True)


class CMAES(SearchPlanner):
    """Covariance matrix adaptation; runs one optimizer for each environment.

    It ranks candidates and ignores how much costs differ, so failed ones simply come last. Candidates outside the
    bounds are put on them. The covariance has (L * K * A)**2 numbers: beyond some hundred actions, set `diagonal`.

    Source: Hansen & Ostermeier, "Completely Derandomized Self-Adaptation in Evolution Strategies" (2001), by `cma`.

    Raises:
        ValueError: `cma` is not installed.
    """

    config: CMAESConfig

    def __init__(self, config: CMAESConfig) -> None:
        super().__init__(config)
        import_cma()

    def strategy(self, search: Search) -> Strategy:
        return _CMAES(self.config, search)


class _CMAES:
    def __init__(self, config: CMAESConfig, search: Search) -> None:
        self.config, self.search, self.std = config, search, config.sigma * search.std
        self.unit = torch.where(search.std > 0, search.std, 1)[:, None]
        self.optimizers = [self._optimizer(generator) for generator in search.generators]

    def _optimizer(self, generator: torch.Generator) -> Any:
        def normal(*shape: int) -> np.ndarray:  # instead of numpy's global generator
            return torch.randn(shape, generator=generator, dtype=torch.float64).numpy()

        c = self.config
        options = {"popsize": c.samples, "randn": normal, "seed": np.nan, "verbose": -9}
        options["CMA_diagonal"] = c.diagonal
        return import_cma().CMAEvolutionStrategy(np.zeros(self.search.mean[0].numel()), c.sigma, options)

    def ask(self, iteration: int) -> Tensor:
        self.drawn = np.array([optimizer.ask() for optimizer in self.optimizers])
        noise = torch.from_numpy(self.drawn).float().unflatten(2, self.search.mean.shape[1:])
        plans = self.search.clip(
            self.search.mean[:, None] + self.search.std[:, None] * noise.to(self.std.device)
        )
        if iteration == 0:
            plans[:, 0], self.drawn[:, 0] = self.search.mean, 0
        return self.search.with_starts(plans) if iteration == 0 else plans

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        # It learns from what it drew, else its steps seem shorter than they were, and it stalls where the best plan is
        # on a bound; and prefers what was drawn near the bounds, else its mean drifts away outside of them.
        evaluated = ((plans - self.search.mean[:, None]) / self.unit).flatten(2).cpu().numpy().astype(float)
        count = self.drawn.shape[1]
        outside = np.square(evaluated[:, :count] - self.drawn).mean(axis=2)
        order = costs.argsort(dim=1, stable=True).argsort(dim=1)
        ranks = torch.where(costs.isfinite(), order, costs.shape[1]).cpu().numpy().astype(float)
        ranks[:, :count] += count * outside
        for row, finite in enumerate(costs.isfinite().any(dim=1).tolist()):
            if finite:  # else: stay, and draw again
                known = [*self.drawn[row], *evaluated[row, count:]]
                self.optimizers[row].tell(known, ranks[row].tolist())
        stds = np.array([optimizer.stds for optimizer in self.optimizers])
        self.std = torch.from_numpy(stds).to(self.std).view_as(self.std) * self.search.std
        return finite_mean(costs)

    def last(self) -> Tensor:
        centres = torch.from_numpy(np.array([optimizer.mean for optimizer in self.optimizers]))
        centre = self.search.mean + self.search.std * centres.to(self.std).view_as(self.std)
        return self.search.clip(centre)[:, None]

    def elites(self) -> None:
        return None


def import_cma() -> Any:
    """The package `cma`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("cma")
    except ImportError as error:
        raise ValueError("the planner cma needs the package cma; pip install cma") from error
