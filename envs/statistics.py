"""What counts of successes say: intervals of a rate, and of the difference of two rates on the same tasks."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval (low, high) of a success rate (Wilson 1927); (0, 1) for n = 0.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} tasks are impossible")
    if n == 0:
        return 0.0, 1.0
    z, rate = _Z95, successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(center - half, 0.0), min(center + half, 1.0)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test (McNemar 1947, by the binomial distribution).

    If a and b were equally good, each task that only one of them solves would be a toss of a fair coin; p is the
    probability of a split at least as uneven as this one. Tasks that both or neither solve say nothing. 1 without
    any task to tell them apart.

    Raises:
        ValueError: a count is negative.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts of tasks are not negative, got {only_a} and {only_b}")
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def paired_difference(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95% interval (low, high) of a's success rate minus b's, both measured on the same tasks.

    Newcombe's square-and-add interval for paired proportions (Statistics in Medicine 17, 1998, 2635-2650, method
    10): Wilson's intervals of the two rates, put together with their correlation. (-1, 1) without tasks.

    Args:
        both, only_a, only_b, neither: tasks that were solved by both, by one of the two, and by none.

    Raises:
        ValueError: a count is negative.
    """
    if min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"counts of tasks are not negative, got {(both, only_a, only_b, neither)}")
    n = both + only_a + only_b + neither
    if n == 0:
        return -1.0, 1.0
    solved_a, solved_b = both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = wilson(solved_a, n), wilson(solved_b, n)
    rate_a, rate_b = solved_a / n, solved_b / n
    phi = _correlation(both, only_a, only_b, neither)

    def add(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = (only_a - only_b) / n
    low = difference - add(rate_a - low_a, high_b - rate_b)
    high = difference + add(high_a - rate_a, rate_b - low_b)
    return max(low, -1.0), min(high, 1.0)


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Phi of the fourfold table with the paper's correction for continuity; 0 where a margin is empty."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - only_a * only_b)
    half = (both + only_a + only_b + neither) / 2
    if product > 0:
        product = max(product - half, 0.0)
    return product / math.sqrt(margins)
