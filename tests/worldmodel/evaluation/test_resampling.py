"""Weighted figures equal those of rows that are really repeated, and plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.evaluation.resampling import draw_counts, interval, spearman, weighted_auc


def test_rank_correlation_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(size=40)
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.zeros(40)) == 0


def test_ties_get_their_mean_rank() -> None:
    # By hand: ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert spearman(np.array([1, 2, 2, 5.0]), np.arange(4.0)) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    )


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
    counts = rng.integers(0, 4, 30)
    repeated = np.repeat(a, counts), np.repeat(b, counts)
    assert spearman(a, b, counts) == pytest.approx(spearman(*repeated), abs=1e-12)
    ones = [np.ones(len(values)) for values in repeated]
    assert weighted_auc(a, b, counts, counts) == pytest.approx(weighted_auc(*repeated, *ones))


def test_auc_is_the_share_of_pairs_in_order() -> None:
    low, high = np.array([0.0, 1, 2]), np.array([1.0, 3])
    shares = [1.0 if h > x else 0.5 if h == x else 0.0 for h in high for x in low]
    assert weighted_auc(low, high, np.ones(3), np.ones(2)) == pytest.approx(np.mean(shares))
    assert np.isnan(weighted_auc(low, high, np.zeros(3), np.ones(2)))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(size=25)
        found = interval(lambda counts, v=values: float(counts @ v / counts.sum()), 25)
        assert found is not None
        covered += found[0] <= 0 <= found[1]
    assert covered >= 50
    assert interval(lambda counts: 1.0, 1) is None
    assert np.array_equal(draw_counts(5), draw_counts(5))
