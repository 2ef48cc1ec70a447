"""Results made again, small: every world's recipe is well formed, the table, the picture, and that it continues."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.reproduce import Config, stages, trainings
from experiments.settings import compose_settings

WORLDS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "world").glob("*.yaml"))
QUICK = 'plan=["planner.samples=4","planner.elites=2","planner.iterations=1"]'


def settings(*overrides: str) -> Config:
    found = compose_settings("reproduce", Config, overrides).to_object()
    assert isinstance(found, Config)
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_every_command_of_a_recipe_is_one(world: str) -> None:
    """A mistyped setting would show after the minutes of the stages before it."""
    config = settings(f"world={world}")
    found = stages(config, Path("out"))
    assert len({stage.name for stage in found}) == len(found)
    for stage in found:
        module = importlib.import_module(f"experiments.{stage.job}")
        schemas = getattr(module, "SCHEMAS", None)
        compose_settings(stage.job, module.Config, stage.overrides, schemas=schemas).to_object()


@pytest.mark.parametrize("world", WORLDS)
def test_the_true_cost_has_no_filter_and_the_model_is_not_told_the_tasks(world: str) -> None:
    config = settings(f"world={world}")
    for stage in stages(config, Path("out")):
        words = " ".join(stage.overrides)
        if stage.job in ("collect", "train"):
            assert "suite=" not in words and "tasks" not in words
        if stage.name == "simulator":
            assert "cost." not in words and "tasks=0" in words


def test_seeds_and_lengths_of_training_give_a_row_each() -> None:
    config = settings("seeds=[0,3]", "world.steps=[5,10]")
    assert list(trainings(config)) == [
        ("seed0_steps5", 0, 5),
        ("seed0_steps10", 0, 10),
        ("seed3_steps5", 3, 5),
        ("seed3_steps10", 3, 10),
    ]


def test_it_makes_a_table_a_report_and_a_picture_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    command = [
        "reproduce", 'world.collect=["episodes=22","steps=6","workers=0"]', "world.steps=[1,2]",
        f"world.{QUICK}", "tasks=2",
        "seeds=[1]", "controls=[replay,noop]", f"out={out}",
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in summary["models"]] == ["seed1_steps1", "seed1_steps2"]
    assert [(row["name"], row["successes"]) for row in summary["controls"]] == [("replay", 2), ("noop", 0)]
    assert all(row["name"] in printed for row in summary["models"] + summary["controls"])
    assert all(row["minutes"] > 0 for row in summary["models"])
    assert (out / "training_time.png").read_bytes().startswith(b"\x89PNG")
    assert "seed1_steps2" in (out / "report.html").read_text()

    weights = out / "train_seed1_steps2/model/dynamics.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(command) == 0
    assert weights.stat().st_mtime_ns == before, "a finished result is read, not made again"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seeds=[]", "seeds"),
        ("world.steps=[]", "world.steps"),
        ("controls=[oracle]", "oracle"),
        ("world=mars", "mars"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    setting: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", setting]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
