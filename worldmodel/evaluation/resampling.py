"""Figures that are weighted by how often a bootstrap has drawn each episode: quantiles of them are intervals.

Steps of one episode are not independent, so that resampling takes or leaves an episode as a whole. Draws are keyed by
the number of episodes: two models on the same episodes are resampled alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from worldmodel.seeding import keyed_rng

DRAWS = 1000


def draw_counts(episodes: int, draws: int = DRAWS) -> np.ndarray:
    """How often each episode is drawn in each resampling: ``(draws, episodes)``."""
    rng = keyed_rng("bootstrap", episodes)
    return rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=draws)


def interval(figure: Callable[[np.ndarray], float], episodes: int, draws: int = DRAWS) -> list[float] | None:
    """95% bootstrap interval of ``figure(counts (episodes,))``; None where fewer than two episodes leave none."""
    if episodes < 2:
        return None
    values = np.array([figure(counts) for counts in draw_counts(episodes, draws)])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]


def weighted_auc(low: np.ndarray, high: np.ndarray, low_weight: np.ndarray, high_weight: np.ndarray) -> float:
    """The probability that a ``high`` is above a ``low``, ties half; NaN without weight on either side."""
    values, place = np.unique(np.concatenate([low, high]), return_inverse=True)
    lows = np.bincount(place[: len(low)], low_weight, len(values))
    highs = np.bincount(place[len(low) :], high_weight, len(values))
    total = lows.sum() * highs.sum()
    return float((highs * (lows.cumsum() - lows / 2)).sum() / total) if total > 0 else float("nan")


def spearman(a: np.ndarray, b: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Spearman's rank correlation with mean ranks for ties; ``weight`` counts how often each pair is there.

    0 where either side is constant: it orders nothing.
    """
    w = np.ones(len(a)) if weight is None else weight.astype(np.float64)
    ranks = [_ranks(values, w) for values in (a, b)]
    total = w.sum()
    if total <= 0:
        return float("nan")
    x, y = (rank - (w * rank).sum() / total for rank in ranks)
    scale = np.sqrt((w * x * x).sum() * (w * y * y).sum())
    return float((w * x * y).sum() / scale) if scale > 1e-12 * total else 0.0


def _ranks(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The middle of each value's ranks, were each pair there ``weight`` times."""
    _, place = np.unique(values, return_inverse=True)
    size = np.bincount(place, weight)
    middle: np.ndarray = (size.cumsum() - size / 2)[place]
    return middle
