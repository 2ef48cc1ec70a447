"""The experiment in Reacher, small: its table, its diagnosis, and that it continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.reacher import SEARCH, Config, stages

SMALL = ["episodes=22", "pretrain_steps=2", "train_steps=2", "end_to_end_steps=2", "tasks=1"]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One short search instead of three long ones; what is measured is the experiment, not the planner."""
    from planners.cem import CEMConfig

    before = CEMConfig.__post_init__

    def quick(self: CEMConfig) -> None:
        self.samples, self.elites, self.iterations = 4, 2, 1
        before(self)

    monkeypatch.setattr(CEMConfig, "__post_init__", quick)
    return tmp_path / "reacher"


def test_it_writes_a_table_and_the_picture_of_the_diagnosis(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reacher", *SMALL, f"out={out}"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    models = ["vjepa", "untrained_encoder", "end_to_end", "short_search", "one_picture", "blind_rollouts"]
    assert list(summary["policies"]) == [*models, "simulator", "random", "noop"]
    assert all(row["label"] in printed for row in summary["policies"].values())
    assert list(summary["pose_error"]) == ["one_picture", "blind_rollouts", "untrained_encoder"]
    assert all(len(error["moving"]["imagined"]) == 16 for error in summary["pose_error"].values())
    assert (out / "velocity.png").read_bytes().startswith(b"\x89PNG")
    seen = {
        name: json.loads((out / f"train_{name}/model/config.json").read_text())["dynamics"]["context"]
        for name in ("vjepa", "end_to_end", "one_picture", "blind_rollouts")
    }
    assert seen == {"vjepa": 2, "end_to_end": 2, "one_picture": 1, "blind_rollouts": 2}

    weights = out / "train_end_to_end/model/dynamics.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(["reacher", *SMALL, f"out={out}"]) == 0
    assert weights.stat().st_mtime_ns == before, "a finished experiment is read, not made again"


def test_the_search_of_a_world_model_is_the_same_for_all_rows() -> None:
    """Only the diagnosis differs from it, and says so."""
    searches = {
        stage.name: [word for word in stage.overrides if word.startswith(("planner.", "cost.", "init_std"))]
        for stage in stages(Config())
        if any(word.startswith("model=") for word in stage.overrides)
    }
    assert searches.pop("plan_short_search") == []
    assert set(map(tuple, searches.values())) == {tuple(SEARCH)}
    assert not [stage for stage in stages(Config(diagnosis=False)) if "one_picture" in stage.name]
