"""Several runs on one page, and which report fits a directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from worldmodel.atomic import write_json
from worldmodel.report.comparison import differences, find_runs, write_comparison
from worldmodel.report.kinds import kind_of


@pytest.fixture
def runs(tmp_path: Path, fake: Any) -> Path:
    fake.make_run(tmp_path / "a" / "base", model=False)
    fake.make_run(tmp_path / "a" / "fast", lr=0.01, scale=2.0, model=False)
    fake.write_probe(tmp_path / "a" / "base" / "probe", 0.8, 0.5)
    return tmp_path / "a"


def test_only_differing_settings_are_listed() -> None:
    first = {"loop": {"lr": 1, "steps": 5}, "mask": {"short": {"ratio": 0.5}}, "out": "x"}
    second = {"loop": {"lr": 2, "steps": 5}, "mask": {"long": {"ratio": 0.5}}, "out": "y"}
    assert differences([first, second]) == [
        {"loop.lr": 1, "mask.short.ratio": 0.5, "mask.long.ratio": None},
        {"loop.lr": 2, "mask.short.ratio": None, "mask.long.ratio": 0.5},
    ]


def test_the_table_has_a_row_for_each_run(runs: Path) -> None:
    content = write_comparison(runs).read_text()
    text = " ".join(
        re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", content, flags=re.DOTALL)).split()
    )
    assert "2 runs compared: a" in text
    assert "Run loop.lr Steps Loss" in text
    # Mean of the last three logged losses: 1 / (1 + step / 20) at steps 94, 96 and 98.
    assert re.search(r"base 0\.001 99 0\.17[0-9] ± 0\.00[0-9] \S+ 0\.50 20\.0 5\.0", text)
    assert re.search(r"fast 0\.01 99 0\.34[0-9] ±", text)
    assert "base 80.0% 70.0–90.0% 50.0% 40.0–60.0% fast – –" in text
    assert 'alt="Effective rank of clips of all runs"' in content
    assert (runs / "curves.png").stat().st_size > 1000


def test_a_damaged_run_is_named_and_the_others_are_shown(runs: Path) -> None:
    (runs / "fast" / "metrics.jsonl").write_text("{nothing\n")
    content = write_comparison(runs).read_text()
    assert re.search(r"Left out: \S*fast/metrics\.jsonl is damaged", content)
    assert "1 of 2 runs compared" in content


def test_one_run_is_no_comparison(tmp_path: Path, fake: Any) -> None:
    fake.make_run(tmp_path / "only", model=False)
    with pytest.raises(FileNotFoundError, match="holds 1 run.*needs two"):
        write_comparison(tmp_path)


def test_runs_are_found_two_levels_down(tmp_path: Path, fake: Any) -> None:
    fake.make_run(tmp_path / "x" / "y", model=False)
    fake.make_run(tmp_path / "z", model=False)
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "metrics.jsonl").touch()  # no configuration: no run
    assert find_runs(tmp_path) == [tmp_path / "x" / "y", tmp_path / "z"]


def test_the_kind_of_a_directory(runs: Path, tmp_path: Path) -> None:
    assert kind_of(runs) == "comparison"
    assert kind_of(runs / "base") == "pretraining"
    demo = tmp_path / "demo"
    (demo / "pretrain").mkdir(parents=True)  # a demo's stages look like several runs
    assert kind_of(demo) == "demo"
    with pytest.raises(FileNotFoundError, match="no directory"):
        kind_of(tmp_path / "none")
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "config.json", {"planner": {}})
    with pytest.raises(FileNotFoundError, match="neither a demo"):
        kind_of(other)
    (other / "config.json").write_text(json.dumps({})[:1])
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        kind_of(other)
