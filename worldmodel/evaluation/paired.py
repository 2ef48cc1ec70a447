"""Paired comparisons of scores: is the one of a pair that should be lower really lower?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from worldmodel.evaluation.scores import wilson
from worldmodel.seeding import keyed_rng

RESAMPLINGS = 2000


def paired_test(likely: np.ndarray, unlikely: np.ndarray, groups: np.ndarray | None = None) -> dict[str, Any]:
    """Is the energy of what is likely lower than that of its unlikely twin? By chance: an accuracy and AUC of 0.5.

    Args:
        likely: Energies ``(n,)`` that should be low.
        unlikely: Energies ``(n,)`` of the same clips' twins, which should be high.
        groups: Which pairs belong together (clips of one video), ``(n,)``: resampling then takes whole groups. None:
            each is its own.

    Returns:
        ``pairs``; ``accuracy``, the share of pairs in which the unlikely one's energy is higher (ties count half), with
        its Wilson ``accuracy_interval`` (pairs as independent); ``auc``, the probability that an unlikely clip's energy
        is above that of any likely one, with a bootstrap ``auc_interval`` over groups; ``difference``, the mean of
        unlikely - likely, with a bootstrap ``difference_interval``; both means; and ``p``, of the exact two-sided sign
        test (ties left out, pairs as independent). Intervals are 95%.

    Raises:
        ValueError: The shapes differ, or a number is not finite.
    """
    likely, unlikely = (np.asarray(values, dtype=np.float64) for values in (likely, unlikely))
    if likely.ndim != 1 or likely.shape != unlikely.shape or not len(likely):
        raise ValueError(
            f"energies come in pairs, one row each; given were {likely.shape} and {unlikely.shape}"
        )
    if not (np.isfinite(likely).all() and np.isfinite(unlikely).all()):
        raise ValueError("an energy is not finite; is the model trained, and its input a video?")
    if groups is not None and np.shape(groups) != likely.shape:
        raise ValueError(f"groups name a group for each pair: {len(likely)}, not {np.shape(groups)}")
    difference = unlikely - likely
    higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
    half = (len(difference) - higher - lower) / 2
    aucs, means = _bootstrap(likely, unlikely, groups)
    return {
        "pairs": len(likely),
        "accuracy": (higher + half) / len(likely),
        # Half a success, of an odd number of ties, makes the interval wider, not narrower.
        "accuracy_interval": [
            wilson(higher + math.floor(half), len(likely))[0],
            wilson(higher + math.ceil(half), len(likely))[1],
        ],
        "auc": auc(likely, unlikely),
        # A pair that is drawn twice meets itself twice, which moves all resampled AUCs up or down alike.
        "auc_interval": _interval(aucs, around=auc(likely, unlikely)),
        "difference": float(difference.mean()),
        "difference_interval": _interval(means),
        "likely": float(likely.mean()),
        "unlikely": float(unlikely.mean()),
        "p": sign_test(higher, lower),
    }


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """The share of all (low, high) combinations in which ``high`` is larger; ties count half. Area under the ROC."""
    order = np.sort(low)
    below = np.searchsorted(order, high, side="left")
    below_or_equal = np.searchsorted(order, high, side="right")
    return float((below + below_or_equal).mean() / (2 * len(low)))


def sign_test(higher: int, lower: int) -> float:
    """Exact two-sided p of so uneven a split, were both signs equally likely."""
    count, fewer = higher + lower, min(higher, lower)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _bootstrap(
    likely: np.ndarray, unlikely: np.ndarray, groups: np.ndarray | None
) -> tuple[list[float], list[float]]:
    """AUC and mean difference of resampled groups; keyed, so always the same."""
    names = np.arange(len(likely)) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    members = [np.flatnonzero(names == name) for name in range(int(names.max()) + 1)]
    rng = keyed_rng("bootstrap", len(members))
    aucs, means = [], []
    for _ in range(RESAMPLINGS):
        drawn = rng.integers(len(members), size=len(members))
        rows = drawn if groups is None else np.concatenate([members[name] for name in drawn])
        aucs.append(auc(likely[rows], unlikely[rows]))
        means.append(float((unlikely[rows] - likely[rows]).mean()))
    return aucs, means


def _interval(values: list[float], around: float | None = None) -> list[float]:
    """95% of the values lie between; moved to have their mean at ``around``, inside [0, 1], if that is given."""
    low, high = np.quantile(values, (0.025, 0.975))
    if around is not None:
        low, high = np.clip(np.array([low, high]) + around - np.mean(values), 0.0, 1.0)
    return [float(low), float(high)]
