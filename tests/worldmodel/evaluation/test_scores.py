"""Scores: intervals and tests against values computed by hand or by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from worldmodel.evaluation.scores import (
    accuracy_interval,
    classification,
    compare,
    mcnemar,
    mean_interval,
    regression,
    resampled_interval,
    sign_flips,
    wilson,
)


def test_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_classification() -> None:
    truth = np.array([0, 0, 0, 1])
    found = classification(truth, np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]), np.arange(4))
    assert found["accuracy"] == 0.75 and found["majority"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["log_loss"] == pytest.approx(-math.log(0.9 * 0.8 * 0.3 * 0.8) / 4)
    assert found["group_interval"] is None


def test_mcnemar_is_the_binomial_test() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 5)
    second = np.array([False] * 9 + [True] * 2 + [True] * 5)
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (9, 2)
    outcomes = [sum(bits) for bits in itertools.product((0, 1), repeat=11)]
    extreme = sum(count <= 2 or count >= 9 for count in outcomes) / len(outcomes)
    assert found["p"] == pytest.approx(extreme)
    assert mcnemar(first, first)["p"] == 1.0


def test_items_of_one_group_count_as_one() -> None:
    values = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 50)
    alone = resampled_interval(values, np.arange(len(values)))
    grouped = resampled_interval(values, np.repeat(np.arange(8), 50))
    assert alone[1] - alone[0] < 0.12
    assert grouped[1] - grouped[0] > 0.4
    low, high = np.quantile(np.random.default_rng(0).binomial(8, 5 / 8, 20000) / 8, (0.025, 0.975))
    assert grouped == pytest.approx((low, high), abs=0.13)


def test_a_paired_comparison_sees_what_separate_intervals_do_not() -> None:
    second = np.arange(100) < 60
    first = np.arange(100) < 70  # right on ten more, wrong on none
    found = compare(first, second, np.arange(100))
    assert found["difference"] == pytest.approx(0.1)
    assert found["better"] and not found["intervals_apart"]
    assert not compare(second, first, np.arange(100))["better"]
    assert not compare(first, first, np.arange(100))["better"]


def test_an_advantage_within_few_groups_is_not_enough() -> None:
    first, second = np.arange(100) < 70, np.arange(100) < 60
    assert not compare(first, second, np.arange(100) // 50)["better"]


def test_sign_flips() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 5)
    second = np.array([False] * 9 + [True] * 2 + [True] * 5)
    difference = first.astype(float) - second
    assert sign_flips(difference, np.arange(16)) == pytest.approx(mcnemar(first, second)["p"])
    # Five groups that all agree: 2 of 32 outcomes are as extreme. Six: 2 of 64.
    assert sign_flips(np.ones(50), np.arange(50) // 10) == 2 / 32
    assert sign_flips(np.ones(60), np.arange(60) // 10) == 2 / 64
    assert sign_flips(np.zeros(4), np.arange(4)) == 1.0
    many = np.where(np.arange(400) % 10 < 6, 1.0, -1.0)  # by draws: 240 of 400, z = 4
    assert sign_flips(many, np.arange(400)) < 0.001


def test_two_groups_prove_nothing_however_many_clips_they_have() -> None:
    """A bootstrap of two groups that agree never sees zero; half of all such findings would be chance."""
    first, second = np.ones(96, dtype=bool), np.arange(96) % 2 == 0
    found = compare(first, second, np.arange(96) // 48)
    assert found["interval"][0] > 0 and found["mcnemar"]["p"] < 1e-9
    assert found["group_p"] == 0.5 and not found["better"]
    assert compare(first, second, np.arange(96) // 8)["better"]


def test_clips_that_overlap_do_not_narrow_the_interval() -> None:
    """Four moments of a video seen 24 times each say little more than four clips; that must show where it is read."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        moment = rng.normal(size=8).repeat(24)
        correct = np.sqrt(0.3) * moment + np.sqrt(0.7) * rng.normal(size=192) > -0.5
        groups = np.arange(192) // 24
        low, high = accuracy_interval(correct, groups)
        wide = classification(np.zeros(192, int), np.stack([correct, ~correct], 1).astype(float), groups)
        assert wide["interval"] == [low, high]
        covered += low <= 0.6915 <= high
    assert covered >= 48  # Wilson's: 36 or so
    everything = np.ones(192, dtype=bool)
    assert accuracy_interval(everything, groups) == wilson(192, 192)  # no point, though all groups agree


def test_regression() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert regression(truth, truth, np.arange(4))["r2"] == 1.0
    assert regression(truth, np.full(4, truth.mean()), np.arange(4))["r2"] == 0.0
    found = regression(truth, truth + np.array([0.5, -0.5, 0.5, -0.5]), np.arange(4))
    assert found["r2"] == pytest.approx(1 - 1 / 5) and found["rmse"] == pytest.approx(0.5)


def test_the_interval_of_few_draws_is_students() -> None:
    found = mean_interval([0.5, 0.6, 0.7])
    assert found["mean"] == pytest.approx(0.6)
    assert found["interval"][1] - 0.6 == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert mean_interval([0.5])["interval"] is None
    many = mean_interval([0.0, 1.0] * 15)  # 29 degrees of freedom: 2.0452
    spread = float(np.std([0.0, 1.0] * 15, ddof=1)) / math.sqrt(30)
    assert (many["interval"][1] - 0.5) / spread == pytest.approx(2.0452, abs=1e-3)
