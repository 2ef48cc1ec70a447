"""A model that knows what actions do, and one that does not listen."""

from __future__ import annotations

import pytest

from tests.worldmodel.evaluation.moving_point import DEAF, EXACT, LIMIT, STEP, episodes
from worldmodel.evaluation.sensitivity import CANDIDATES, action_sensitivity


def test_the_true_dynamics_tell_the_true_action() -> None:
    found = action_sensitivity(EXACT, episodes(6), [0.5, 0.5], ["down", "right"], moments=100)
    assert found["identified"]["value"] > 0.5 > 5 * found["identified"]["chance"]
    assert found["identified"]["interval"][0] > found["identified"]["chance"]
    assert found["error_ratio"]["interval"][0] > 2
    assert [d["name"] for d in found["dimensions"]] == ["down", "right"]


def test_a_deaf_model_is_at_chance_and_moves_nothing() -> None:
    found = action_sensitivity(DEAF, episodes(6), [0.5, 0.5], moments=100)
    assert found["identified"]["value"] == pytest.approx(1 / CANDIDATES)
    assert found["error_ratio"]["value"] == pytest.approx(1)
    assert found["effect"]["value"] == 0
    assert all(d["value"] == 0 for d in found["dimensions"])


def test_the_effect_of_a_dimension_is_that_of_two_standard_deviations() -> None:
    data = [
        e
        for e in episodes(200, steps=2)
        if e.states is not None and e.states.min() > 6 and e.states.max() < LIMIT - 6
    ]
    std = 0.2
    found = action_sensitivity(EXACT, data, [std, std])
    moved = sum(float((e.latents[1:] - e.latents[:-1]).square().mean(dim=(1, 2)).sum()) for e in data)
    steps = sum(e.steps for e in data)
    # One of the two elements of the latent moves by 2 std * STEP.
    expected = ((2 * std * STEP) ** 2 / 2) ** 0.5 / (moved / steps) ** 0.5
    assert found["dimensions"][0]["value"] == pytest.approx(expected, rel=0.1)
