"""All rows of a model on one suite, two runs against each other, and the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from worldmodel.atomic import read_json, write_json
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

SMALL = [
    "planner.samples=4",
    "planner.iterations=1",
    "planner.elites=2",
    "planner.horizon=2",
    "latent_samples=2",
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of an untrained model on two tasks, with all rows."""
    path = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.6, 0.6])
    WorldModel(WorldModelConfig(actions=spec, env_id="worldmodel/TwoRoom-v0")).save(path / "model")
    assert main(["benchmark", f"model={path}/model", "tasks=2", *SMALL, f"out={path}/out"]) == 0
    return path


def test_it_plays_every_row_on_the_same_tasks(bench: Path) -> None:
    summary = read_json(bench / "out/summary.json")
    assert list(summary) == [
        "world_model", "simulator_latent", "simulator", "scripted", "replay", "random", "noop",
    ]  # fmt: skip
    rows = {agent: read_json(bench / "out" / agent / "results.json") for agent in summary}
    assert len({row["suite"] for row in rows.values()}) == 1
    assert summary["replay"]["successes"] == summary["scripted"]["successes"] == 2
    assert summary["noop"]["successes"] == 0
    assert summary["replay"]["model_minus_this"][0] == (summary["world_model"]["successes"] - 2) / 2
    assert rows["world_model"]["model"] == rows["simulator_latent"]["model"] != rows["noop"]["model"]


def test_the_page_shows_rows_failures_and_successes(bench: Path) -> None:
    text = (bench / "out/report.html").read_text()
    assert "7 agents on two_room" in text and "Failures (" in text and "Successes (" in text
    assert "world_model against replay" in text and "McNemar" in text
    assert text.count("<video") == 2 and "https://" not in text


def test_rows_are_added_later_and_finished_ones_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "suite=two_room", "tasks=2", f"out={tmp_path}/out"]
    assert main([*command, "rows=[noop]"]) == 0
    first = (tmp_path / "out/noop/episodes/0000.npz").stat().st_mtime_ns
    assert main([*command, "rows=[replay,noop]"]) == 0
    assert main([*command, "rows=[random]"]) == 0
    assert (tmp_path / "out/noop/episodes/0000.npz").stat().st_mtime_ns == first
    assert list(read_json(tmp_path / "out/summary.json")) == ["replay", "random", "noop"]
    assert "replay                       2/2" in capsys.readouterr().out


def test_rows_that_cannot_be_played_are_left_out_or_refused_at_once(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's row was played, and then the simulator's ended the benchmark."""
    few = [f"model={bench}/model", "tasks=1", "planner.horizon=2", "planner.iterations=1"]
    gradient = ["planner=gradient", "planner.samples=2"]
    assert main(["benchmark", *few, *gradient, f"out={tmp_path}/out"]) == 0
    assert list(read_json(tmp_path / "out/summary.json")) == [
        "world_model", "scripted", "replay", "random", "noop",
    ]  # fmt: skip
    asked = ["rows=[world_model,simulator]", f"out={tmp_path}/none"]
    assert main(["benchmark", *few, *gradient, *asked]) == 2
    assert "planner=gradient follows" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_two_runs_are_compared_task_by_task(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{bench}/out/replay", f"{bench}/out/noop"]) == 0
    printed = capsys.readouterr().out
    assert "only a: 2: tasks 0, 1" in printed and "both: 0; neither: 0" in printed
    assert "a minus b: +100.0 points" in printed and "p = 0.5" in printed
    assert main(["compare", f"{bench}/out/replay", f"{bench}/out/scripted"]) == 0
    assert "a minus b: +0.0 points" in (printed := capsys.readouterr().out) and "p = 1" in printed


def test_different_tasks_are_not_compared(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "agent=noop", "suite=two_room", "tasks=3", f"out={tmp_path}/three"]) == 0
    assert main(["compare", f"{bench}/out/noop", f"{tmp_path}/three"]) == 2
    assert "only runs on the same tasks can be compared" in capsys.readouterr().err
    assert main(["compare", f"{bench}/out/noop", f"{tmp_path}/nothing"]) == 2
    assert "has no results.json" in capsys.readouterr().err
    write_json(tmp_path / "results.json", {"probes": {}})
    assert main(["compare", f"{bench}/out/noop", str(tmp_path)]) == 2
    assert "is no run of worldmodel plan" in capsys.readouterr().err


def test_a_plan_has_a_page_of_its_own(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"run={bench}/out/noop"]) == 0
    text = (bench / "out/noop/report.html").read_text()
    assert "noop on two_room" in text and "Failures (2 of 2)" in text and "Successes (0 of 2)" in text
    assert "There are none." in text and text.count("<video") == 2
    assert main(["report", f"run={bench}/out/replay"]) == 0
    assert "Successes (2 of 2)" in (bench / "out/replay/report.html").read_text()


def test_a_page_without_pictures_or_of_an_older_run_says_so(bench: Path, tmp_path: Path) -> None:
    found = json.loads((bench / "out/noop/results.json").read_text())
    for key in (
        "suite_name",
        "horizon",
        "versions",
        "seeds",
        "path_efficiency",
        "final",
        "held",
        "after_success",
    ):
        del found[key]
    write_json(tmp_path / "results.json", found)
    assert main(["report", f"run={tmp_path}"]) == 0
    assert "Left out: videos, because no pictures were kept." in (tmp_path / "report.html").read_text()
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes/0000.npz").write_bytes(b"PK")
    assert main(["report", f"run={tmp_path}"]) == 0
    assert "0000.npz is damaged" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("rows=[magic]", "rows has no magic"),
        ("rows=[world_model]", "needs model=MODEL_DIRECTORY"),
        ("suite=no_room", "two_room"),
        ("latent_samples=-1", "must not be negative"),
    ],
)
def test_mistakes_are_one_line(
    settings: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", settings, f"out={tmp_path}/r"]) == 2
    assert message in capsys.readouterr().err
