from __future__ import annotations

from itertools import product
from math import comb, isclose

import pytest

from envs.statistics import mcnemar, paired_difference, wilson


def test_wilson_against_known_values():
    # Newcombe 1998, table I, method 3; and Agresti & Coull 1998 for 0 of 10.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(50, 50)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(30, 100)
    assert wilson(70, 100) == pytest.approx((1 - high, 1 - low))
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0 and mcnemar(3, 3) == 1.0 and mcnemar(1, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32) and mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(2, 8) == mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 2)


def test_mcnemar_keeps_its_level():
    """Of two equally good policies it calls at most 5% different, whatever the number of tasks that tell them apart."""
    for n in range(1, 60):
        wrong = sum(comb(n, i) for i in range(n + 1) if mcnemar(i, n - i) <= 0.05)
        assert wrong / 2**n <= 0.05


def test_the_difference_against_known_values():
    # Newcombe 1998 (paired proportions), table III, method 10.
    assert paired_difference(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_difference(0, 0, 0, 0) == (-1.0, 1.0)


def test_the_difference_is_fair_to_both_and_narrows():
    low, high = paired_difference(40, 9, 3, 8)
    assert low < 0.1 < high
    assert paired_difference(40, 3, 9, 8) == pytest.approx((-high, -low))
    wide, narrow = (paired_difference(40 * k, 9 * k, 3 * k, 8 * k) for k in (1, 10))
    assert low == wide[0] < narrow[0] < 0.1 < narrow[1] < wide[1] == high
    assert paired_difference(20, 0, 0, 0)[0] < 0 < paired_difference(20, 0, 0, 0)[1]
    with pytest.raises(ValueError, match="not negative"):
        paired_difference(1, 2, -3, 4)


@pytest.mark.parametrize("chances", [(0.6, 0.2, 0.1, 0.1), (0.2, 0.3, 0.3, 0.2), (0.85, 0.05, 0.05, 0.05)])
def test_the_difference_covers_the_truth_in_19_of_20_cases(chances):
    """Exact: over all tables of 25 tasks with their probabilities."""
    n, covered, total = 25, 0.0, 0.0
    for a, b, c in product(range(n + 1), repeat=3):
        if (d := n - a - b - c) >= 0:
            ways = comb(n, a) * comb(n - a, b) * comb(n - a - b, c)
            chance = ways * chances[0] ** a * chances[1] ** b * chances[2] ** c * chances[3] ** d
            low, high = paired_difference(a, b, c, d)
            total += chance
            covered += chance * (low <= chances[1] - chances[2] <= high)
    assert isclose(total, 1.0, rel_tol=1e-9)
    assert 0.93 < covered < 0.999
