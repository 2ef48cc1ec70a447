"""What a probe's answers on the test are worth: accuracies with intervals, and paired comparisons.

All take NumPy arrays: ``correct (n,)`` bool, ``groups (n,)`` int. Items of one group (clips that overlap, or show the
same moment) are not independent, so that resampling takes or leaves a group as a whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from worldmodel.seeding import keyed_rng

RESAMPLINGS = 2000
Z = 1.959964  # of a 95% interval


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), for independent items; (0, 1) without any."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``(classes, classes)``: rows are the true classes, columns the answers."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (truth, answer), 1)
    return table


def classification(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy with its intervals, and what belongs to it.

    Args:
        truth: Classes ``(n,)``.
        probabilities: Of each class, ``(n, classes)``.
        groups: Which items belong together.

    Returns:
        ``accuracy``, its ``interval`` (see ``accuracy_interval``), ``group_interval`` (bootstrap over groups alone;
        None where every item is its own), ``balanced_accuracy`` (mean recall of the classes that occur), ``top5`` from
        six classes on, ``majority`` (share of the most frequent class), ``log_loss``, and the ``confusion`` matrix.
    """
    classes = probabilities.shape[1]
    answer = probabilities.argmax(axis=1)
    correct = answer == truth
    table = confusion(truth, answer, classes)
    occurring = table.sum(axis=1) > 0
    recall = np.diag(table)[occurring] / table.sum(axis=1)[occurring]
    result = {
        "items": len(truth),
        "correct": int(correct.sum()),
        "accuracy": float(correct.mean()),
        "interval": list(accuracy_interval(correct, groups)),
        "group_interval": None,
        "balanced_accuracy": float(recall.mean()),
        "majority": float(table.sum(axis=1).max() / len(truth)),
        "log_loss": float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean()),
        "confusion": table.tolist(),
    }
    if _grouped(groups):
        result["group_interval"] = list(resampled_interval(correct.astype(np.float64), groups))
    if classes > 5:
        best = np.argsort(-probabilities, axis=1)[:, :5]
        result["top5"] = float((best == truth[:, None]).any(axis=1).mean())
    return result


def accuracy_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95% interval of an accuracy: Wilson's, and where items share a group, wide enough for the bootstrap over groups.

    Wilson's alone takes items as independent: of 24 overlapping clips per group it contains the truth in two thirds of
    all studies. The bootstrap alone is a point where all groups agree.
    """
    low, high = wilson(int(correct.sum()), len(correct))
    if _grouped(groups):
        bounds = resampled_interval(correct.astype(np.float64), groups)
        low, high = min(low, bounds[0]), max(high, bounds[1])
    return low, high


def _grouped(groups: np.ndarray) -> bool:
    return len(np.unique(groups)) < len(groups)


def regression(truth: np.ndarray, answer: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """``r2`` (1: exact, 0: as good as the test's mean) with a bootstrap interval over groups, ``rmse``, ``pearson``."""
    error, spread = (answer - truth) ** 2, (truth - truth.mean()) ** 2
    names = np.unique(groups, return_inverse=True)[1]
    draws = _resample(names)
    totals = [np.bincount(names, weights=values, minlength=draws.shape[1]) for values in (error, spread)]
    # The mean of the whole test stands in each resampling: its error is of second order.
    sampled = 1 - (draws @ totals[0]) / np.maximum(draws @ totals[1], 1e-12)
    both_vary = truth.std() > 0 and answer.std() > 0
    return {
        "items": len(truth),
        "r2": float(1 - error.sum() / max(spread.sum(), 1e-12)),
        "interval": [float(bound) for bound in np.quantile(sampled, (0.025, 0.975))],
        "rmse": float(np.sqrt(error.mean())),
        "pearson": float(np.corrcoef(truth, answer)[0, 1]) if both_vary else 0.0,
    }


def resampled_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the mean of ``values (n,)``, resampling groups; keyed, so always the same."""
    names = np.unique(groups, return_inverse=True)[1]
    draws = _resample(names)
    totals = np.bincount(names, weights=values, minlength=draws.shape[1])
    sizes = np.bincount(names, minlength=draws.shape[1])
    means = (draws @ totals) / (draws @ sizes)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _resample(names: np.ndarray) -> np.ndarray:
    """How often each group is drawn in each resampling: ``(RESAMPLINGS, groups)``."""
    count = int(names.max()) + 1
    rng = keyed_rng("bootstrap", count)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLINGS)


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Exact McNemar test: do two probes differ on the items that only one of them gets right? Items as independent.

    Returns:
        ``only_first``, ``only_second`` (counts) and the two-sided ``p``.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    count, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    p = min(1.0, 2 * tail / 2**count)
    return {"only_first": only_first, "only_second": only_second, "p": p}


def sign_flips(difference: np.ndarray, groups: np.ndarray) -> float:
    """Two-sided p of so large a mean difference, were each group's as likely to be turned round.

    Exact for up to 12 groups that differ, by 10,000 keyed draws above. Unlike a bootstrap it knows how little two or
    three groups can prove: 5 that all agree give p = 0.06. With a group for each item it is McNemar's test.
    """
    names = np.unique(groups, return_inverse=True)[1]
    totals = np.bincount(names, weights=difference)
    totals = totals[totals != 0]
    if len(totals) <= 12:
        signs = 1 - 2 * (np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals)) & 1)
        return float((np.abs(signs @ totals) >= abs(totals.sum()) - 1e-9).mean())
    signs = keyed_rng("sign flips", len(totals)).choice((-1, 1), size=(10_000, len(totals)))
    return float(((np.abs(signs @ totals) >= abs(totals.sum()) - 1e-9).sum() + 1) / (len(signs) + 1))


def compare(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Two probes on the same items.

    Args:
        first, second: Which items each gets right, ``(n,)`` bool.
        groups: Which items belong together.

    Returns:
        ``difference`` of the accuracies, its 95% ``interval`` (paired bootstrap over groups), the ``mcnemar`` test,
        ``group_p`` (``sign_flips``; None where every item is its own group), ``intervals_apart`` (those of the two
        accuracies do not overlap), and ``better``: the paired interval is above zero and every p below 0.05.
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    interval = resampled_interval(difference, groups)
    test = mcnemar(first, second)
    group_p = sign_flips(difference, groups) if _grouped(groups) else None
    apart = accuracy_interval(first, groups)[0] > accuracy_interval(second, groups)[1]
    return {
        "difference": float(difference.mean()),
        "interval": list(interval),
        "mcnemar": test,
        "group_p": group_p,
        "intervals_apart": apart,
        "better": interval[0] > 0 and test["p"] < 0.05 and (group_p is None or group_p < 0.05),
    }


def compare_regression(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """Two regressions on the same items: difference of the squared errors as a share of the variance (that of R^2).

    ``better``: its bootstrap interval over groups is above zero, and the ``p`` of ``sign_flips`` below 0.05.
    """
    gain = ((second - truth) ** 2 - (first - truth) ** 2) / max(float(truth.var()), 1e-12)
    interval = resampled_interval(gain, groups)
    p = sign_flips(gain, groups)
    return {
        "difference": float(gain.mean()),
        "interval": list(interval),
        "p": p,
        "better": interval[0] > 0 and p < 0.05,
    }


def mean_interval(values: list[float]) -> dict[str, Any]:
    """Mean over draws with a 95% t-interval (None for a single draw)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "interval": None, "draws": values}
    half = _t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": mean, "interval": [mean - half, mean + half], "draws": values}


def _t_quantile(freedom: int) -> float:
    """97.5% quantile of Student's t (Cornish-Fisher from 10 degrees of freedom on, error below 0.001)."""
    table = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    if freedom <= len(table):
        return table[freedom - 1]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
