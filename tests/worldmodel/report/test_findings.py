"""The sentences that are computed from success rates."""

from __future__ import annotations

from typing import Any

import pytest

from worldmodel.report.artefacts import paired
from worldmodel.report.findings import comparisons, headline, sign_test


def rate(
    successes: int, low: float, high: float, solved: range = range(0), suite: str = "s"
) -> dict[str, Any]:
    tasks = [{"id": i, "success": i in solved} for i in range(10)]
    return {"successes": successes, "episodes": 100, "interval": [low, high], "suite": suite, "tasks": tasks}


GOOD, FAIR, BAD, NONE = rate(90, 0.83, 0.94), rate(84, 0.76, 0.90), rate(50, 0.40, 0.60), rate(2, 0.01, 0.07)


@pytest.mark.parametrize(
    ("ours", "control", "said"),
    [
        (GOOD, FAIR, "no difference is shown (the 95% intervals overlap)"),
        (FAIR, GOOD, "no difference is shown (the 95% intervals overlap)"),
        (GOOD, BAD, "pretraining clearly helps here (the 95% intervals do not overlap)"),
        (BAD, GOOD, "the pretrained encoder is clearly worse here"),
        (NONE, NONE, "nothing can be said about pretraining"),
        (NONE, GOOD, "the pretrained encoder is clearly worse"),
    ],
)
def test_what_is_said_about_pretraining_on_different_suites(
    ours: dict[str, Any], control: dict[str, Any], said: str
) -> None:
    other = {**control, "suite": "another"}
    sentences = headline({"vjepa": ours, "untrained_encoder": other, "random": NONE})
    assert said in sentences[1]
    assert f"reaches {control['successes']} of 100" in sentences[1]


def test_on_the_same_tasks_pairs_decide_even_where_intervals_overlap() -> None:
    """83 against 70 of 100 had overlapping intervals, though 13 tasks were solved only by V-JEPA, none only without."""
    ours, control = rate(90, 0.83, 0.94, solved=range(8)), rate(84, 0.76, 0.90)
    said = headline({"vjepa": ours, "untrained_encoder": control, "random": NONE})[1]
    assert "pretraining clearly helps here (paired sign test: p = 0.008)" in said
    said = headline({"vjepa": control, "untrained_encoder": ours, "random": NONE})[1]
    assert "clearly worse here (paired" in said
    tied = rate(90, 0.83, 0.94, solved=range(2))
    assert (
        "no difference is shown (paired sign test: p = 0.50)"
        in headline({"vjepa": tied, "untrained_encoder": control, "random": NONE})[1]
    )


def test_what_is_said_about_the_level() -> None:
    assert headline({}) == ["The V-JEPA agent has not been evaluated yet."]
    assert headline({"vjepa": GOOD}) == [
        "The V-JEPA agent reaches 90 of 100 held-out goals, from pixels alone."
    ]
    assert "without a plan reaches 2 of 100." in headline({"vjepa": GOOD, "random": NONE})[0]
    assert "not clearly better than chance" in headline({"vjepa": NONE, "noop": NONE})[0]
    # The better one of the two that do not plan is what counts.
    assert "reaches 50 of 100" in headline({"vjepa": GOOD, "random": NONE, "noop": BAD})[0]


def test_where_failures_come_from() -> None:
    def last(ours: dict[str, Any], simulator: dict[str, Any]) -> str:
        return comparisons({"vjepa": ours, "simulator": simulator})[-1]

    assert "a search can solve them" in last(BAD, GOOD)
    assert "do not tell the two apart" in last(FAIR, GOOD)
    assert "clearly fewer" in last(GOOD, BAD)


def test_pairs_are_counted_on_the_same_suite_only() -> None:
    a, b = rate(3, 0, 1, solved=range(3)), rate(5, 0, 1, solved=range(2, 7))
    assert paired(a, b) == (2, 4)
    assert paired(a, {**b, "suite": "another"}) is None
    assert (
        "2 solved only by V-JEPA, 4 only by the untrained encoder"
        in comparisons({"vjepa": a, "untrained_encoder": b})[0]
    )
    assert comparisons({"untrained_encoder": b}) == []


def test_sign_test() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 3) == 1.0
    assert sign_test(0, 11) == pytest.approx(2 / 2**11)
    assert sign_test(1, 4) == sign_test(4, 1) == pytest.approx(2 * (1 + 5) / 2**5)
