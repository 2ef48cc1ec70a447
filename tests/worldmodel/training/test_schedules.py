"""Schedules against the values that V-JEPA's really reach."""

from __future__ import annotations

import pytest

from worldmodel.training.schedules import (
    cosine,
    linear,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    warmup_stable_decay,
)

EPOCH = 300  # steps


def test_v_jepa_1_ends_where_its_stretched_schedules_are_cut_off() -> None:
    steps, warmup = 300 * EPOCH, 40 * EPOCH

    def lr(step: int) -> float:
        return warmup_cosine(step, steps, 6.25e-4, warmup, 1e-6, start=2e-4, stretch=1.25)

    assert lr(0) == pytest.approx(2e-4, rel=1e-3)
    assert lr(warmup // 2 - 1) == pytest.approx((2e-4 + 6.25e-4) / 2)
    assert lr(warmup) == pytest.approx(6.25e-4)
    assert lr(steps) == pytest.approx(7.5e-5, rel=0.01)
    assert cosine(1.0, 0.04, 0.4, stretch=1.25) == pytest.approx(0.366, abs=5e-4)
    assert linear(1.0, 0.998, 1.0, stretch=1.25) == pytest.approx(0.9996)


def test_v_jepa_2_warms_up_and_stays_then_cools_down() -> None:
    assert warmup_constant(0, 5.25e-4, 12_000, start=1e-4) == pytest.approx(1e-4, rel=1e-3)
    assert warmup_constant(12_000, 5.25e-4, 12_000, start=1e-4) == 5.25e-4
    assert warmup_constant(200_000, 5.25e-4, 12_000, start=1e-4) == 5.25e-4
    cooldown = [warmup_linear(step, 12_000, 5.25e-4, 0, 1e-6, stretch=1.25) for step in (0, 6_000, 12_000)]
    assert cooldown == pytest.approx([5.25e-4, 3.15e-4, 1.06e-4], rel=0.01)


def test_warm_up_stable_decay() -> None:
    values = [
        warmup_stable_decay(step, 100, 1.0, 10, 20, start=0.2) for step in (0, 9, 10, 79, 80, 90, 100, 120)
    ]
    assert values == pytest.approx([0.28, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_no_warm_up_and_ends_that_are_kept() -> None:
    assert warmup_cosine(0, 10, 1.0, 0) == 1.0
    assert warmup_linear(10, 10, 1.0, 0, 0.1) == pytest.approx(0.1)
    assert linear(2.0, 0.0, 1.0) == 1.0
    assert cosine(-1.0, 0.3, 1.0) == pytest.approx(0.3)
