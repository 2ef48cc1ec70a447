"""Paired comparisons against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldmodel.evaluation.paired import auc, paired_test, sign_test


def test_auc_counts_combinations() -> None:
    low, high = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    wanted = np.mean([(h > l) + 0.5 * (h == l) for h in high for l in low])  # noqa: E741
    assert auc(low, high) == pytest.approx(float(wanted))
    assert auc(high, high) == 0.5
    assert auc(low, low + 10) == 1.0


def test_the_sign_test_is_exact() -> None:
    assert sign_test(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)
    assert sign_test(5, 5) == 1.0
    assert sign_test(0, 0) == 1.0
    assert sign_test(0, 200) == pytest.approx(2 / 2**200)


def test_accuracy_is_paired_and_auc_is_not() -> None:
    rng = np.random.default_rng(0)
    clip = rng.normal(0, 10, 200)  # clips differ by far more than their twins
    result = paired_test(clip, clip + 0.5)
    assert result["accuracy"] == 1.0
    assert result["auc"] < 0.6
    assert result["difference"] == pytest.approx(0.5)
    assert result["p"] < 1e-10
    low, high = result["auc_interval"]
    assert low <= result["auc"] <= high and high - low < 0.1


def test_no_difference_is_not_found() -> None:
    rng = np.random.default_rng(1)
    result = paired_test(rng.normal(size=300), rng.normal(size=300))
    for name, chance in (("accuracy", 0.5), ("auc", 0.5), ("difference", 0.0)):
        low, high = result[f"{name}_interval"]
        assert low < chance < high
    assert result["p"] > 0.05


def test_ties_count_half() -> None:
    result = paired_test(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 2.0]))
    assert result["accuracy"] == pytest.approx(2.5 / 3)
    low, high = result["accuracy_interval"]
    assert low < 2 / 3 and high == 1.0


def test_clips_of_one_video_make_the_interval_wider() -> None:
    rng = np.random.default_rng(2)
    effect = np.repeat(rng.normal(0.2, 1, 12), 20)
    low = rng.normal(size=240)
    apart = paired_test(low, low + effect)
    together = paired_test(low, low + effect, np.repeat(np.arange(12), 20))

    def width(result: dict) -> float:
        return result["difference_interval"][1] - result["difference_interval"][0]

    assert width(together) > 2 * width(apart)
    assert paired_test(low, low + effect) == apart  # always the same


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="come in pairs"):
        paired_test(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="not finite"):
        paired_test(np.array([math.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="groups name a group for each pair"):
        paired_test(np.zeros(3), np.ones(3), np.zeros(2))
