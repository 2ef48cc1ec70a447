"""The benchmark of a search's parts: both sides simulate equally many plans, and pairs of tasks are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.bench_search import PARTS, SearchBench, as_row, compare, sides
from experiments.cli import main
from planners.icem import ICEMConfig, sample_counts


def plans(planner: Any) -> int:
    counts = (
        sample_counts(planner) if isinstance(planner, ICEMConfig) else [planner.samples] * planner.iterations
    )
    return sum(counts)


@pytest.mark.parametrize("part", PARTS)
def test_the_sides_differ_in_the_part_only_and_simulate_equally_many_plans(part: str) -> None:
    bench = SearchBench(samples=5, iterations=3)
    on, off = sides(bench, part)
    assert plans(on.planner) == plans(off.planner) == 15
    setting, without = part.split(".")[1], PARTS[part]
    if setting == "warm_start":
        assert on.planner == off.planner and on.warm_start and not off.warm_start
        return
    assert on.warm_start and off.warm_start
    assert getattr(off.planner, setting) == without != getattr(on.planner, setting)
    allowed = {setting, "samples"} if setting == "decay" else {setting}
    assert {
        name for name, value in vars(on.planner).items() if getattr(off.planner, name) != value
    } == allowed


def rows(outcomes: str, steps: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": i, "success": outcome == "+", "steps": step}
        for i, (outcome, step) in enumerate(zip(outcomes, steps, strict=True))
    ]


def test_pairs_are_compared() -> None:
    found = compare(rows("+++-", [10, 20, 30, 40]), rows("+---", [20, 40, 40, 40]))
    assert (found["tasks"], found["goals with"], found["goals without"]) == (4, 3, 1)
    assert found["difference in points"] == 50 and found["p"] == 0.5
    assert found["difference in points, low"] < 50 < found["difference in points, high"]
    assert (found["steps with"], found["steps without"], found["difference in steps"]) == (25, 35, -10)
    half = 1.96 * (200 / 3) ** 0.5 / 2  # the gaps are -10, -20, -10, 0
    assert found["difference in steps, low"] == pytest.approx(-10 - half)
    assert found["difference in steps, high"] == pytest.approx(-10 + half)
    assert as_row("world", "part", found).startswith("| world | part | 3 of 4 | 1 | +50 (")


def test_other_tasks_are_no_pairs() -> None:
    with pytest.raises(RuntimeError, match="other tasks"):
        compare(rows("+-", [1, 2]), rows("+-", [1, 2])[::-1])


def test_a_row_is_played_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        "search.suites=[reacher]",
        "search.parts=[cem.warm_start]",
        "search.tasks=2",
        "search.iterations=1",
    ]
    given = [*small, f"search.runs={tmp_path}/runs", f"out={tmp_path}/figures.json", "threads=1"]
    command = ["bench", "what=[search]", *given]
    assert main(command) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["search: reacher, cem.warm_start, tasks"] == 2
    played = sorted(tmp_path.glob("runs/reacher/*/tasks.jsonl"))
    before = [file.stat().st_mtime_ns for file in played]
    assert len(played) == 2
    table = (tmp_path / "runs" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert main(command) == 0
    assert [file.stat().st_mtime_ns for file in played] == before
    assert (tmp_path / "runs" / "table.md").read_text() == table


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "what=[search]", "search.parts=[luck]"]) == 2
    assert "choose some of cem.warm_start, cem.correlated" in capsys.readouterr().err
