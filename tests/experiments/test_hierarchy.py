"""Planning on two levels by the command line: the experiment small, outcomes, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from envs.simulate import SimulatorCost
from envs.suites import load_suite
from envs.world import make_world
from experiments.cli import main
from experiments.hierarchy import LABELS, SEARCH, Config, stages
from experiments.plan import Config as PlanConfig
from planners.hierarchical import HierarchyConfig

SMALL = ["episodes=22", "pretrain_steps=0", "train_steps=2", "slow_steps=2", "tasks=1"]
FEW = ["planner.samples=8", "planner.elites=2", "planner.iterations=1", "threads=1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment, with one short search instead of long ones: what is tested is the way, not the planner."""
    from planners.cem import CEMConfig

    with pytest.MonkeyPatch.context() as patch:
        before = CEMConfig.__post_init__

        def quick(self: CEMConfig) -> None:
            self.samples, self.elites, self.iterations = 4, 2, 1
            before(self)

        patch.setattr(CEMConfig, "__post_init__", quick)
        out = tmp_path_factory.mktemp("hierarchy") / "out"
        assert main(["hierarchy", *SMALL, f"out={out}"]) == 0
    return out


def test_the_experiment_compares_two_levels_with_all_others(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["policies"]) == list(LABELS)
    for name, row in summary["policies"].items():
        assert row["episodes"] == 1
        assert ("two_levels_minus_this" in row) == (name != "hierarchical")
    assert [row["name"] for row in summary["stages"][:3]] == ["collect", "train", "train_slow"]


def test_one_level_the_simulator_and_the_fast_level_search_alike() -> None:
    found = {stage.name: stage.overrides for stage in stages(Config())}
    for name in ("hierarchical", "flat", "simulator", "simulator_way"):
        said = [word for word in found[f"plan_{name}"] if word.startswith(("planner.", "cost.", "mpc."))]
        assert said == SEARCH
    assert "simulator_distance=straight" in found["plan_simulator"]
    assert f"encoder_from={Config().out}/pretrain/model" in found["train"]
    assert "variant=untrained" in {
        word for stage in stages(Config(pretrain_steps=0)) for word in stage.overrides
    }


def test_outcomes_do_not_depend_on_how_many_environments_run_at_once(out: Path, tmp_path: Path) -> None:
    def played(envs: int) -> list[tuple[int, float]]:
        where = tmp_path / str(envs)
        slow = ["slow.planner.samples=8", "slow.planner.elites=2", "slow.planner.iterations=1"]
        command = ["plan", "agent=hierarchical", f"model={out}/train/model", "suite=two_room_published_far"]
        more = [*SEARCH, *FEW, *slow, "tasks=3", f"num_envs={envs}", f"out={where}"]
        assert main([*command, *more]) == 0
        return [
            (t["id"], t["final_distance"]) for t in json.loads((where / "results.json").read_text())["tasks"]
        ]

    assert played(1) == played(3)


def test_mistakes_are_one_line(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(out / "train" / "model", bare)
    shutil.rmtree(bare / "slow")
    suite = "suite=two_room_published_far"
    levels = ["plan", "agent=hierarchical", suite]
    for command, said in (
        ([*levels, f"model={bare}", *SEARCH], "make one by worldmodel train_slow"),
        (
            [*levels, f"model={out}/train/model", *SEARCH, "planner.horizon=2"],
            "sub-goals are 3 model steps away",
        ),
        ([*levels, f"model={out}/train/model", *SEARCH, "slow.cost.disagreement=1"], "needs an ensemble"),
        ([*levels], "needs model=MODEL_DIRECTORY"),
        (["plan", "agent=random", suite, "slow.every=2"], "slow.* has no effect on agent=random"),
        (["plan", "agent=random", suite, "simulator_distance=straight"], "has no effect on agent=random"),
        (["plan", "agent=simulator", suite, "simulator_distance=manhattan"], "choose way or straight"),
        (["hierarchy", "slow_steps=0"], "must be at least 1"),
    ):
        assert main([*command, f"out={tmp_path}/run"]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_slow_settings_have_an_effect_on_one_agent_only() -> None:
    with pytest.raises(ValueError, match=r"slow\.\* has no effect"):
        PlanConfig(agent="noop", slow=HierarchyConfig(every=3))


def test_the_far_goals_are_near_in_a_straight_line() -> None:
    """The ways lead through a far door: that is what the suite is for, and what a straight distance does not see."""
    suite = load_suite("two_room_published_far")
    assert len(suite) == 200
    starts, goals = (np.stack([getattr(task, name) for task in suite]) for name in ("start", "goal"))
    world = make_world(suite.env_id)
    ways, straight = world.distances(starts, goals), world.straight_distances(starts, goals)
    assert ways.min() >= 240 and np.median(straight) < 0.5 * np.median(ways)
    assert straight == pytest.approx(np.hypot(*(starts - goals)[:, 1:3].T))
    idle = np.zeros((2, 1, 1, 1, 2), np.float32)
    cost = SimulatorCost(suite.env_id, path=0, final=1, minimum=0, distance="straight")
    assert cost(starts[:2], goals[:2], idle)[:, 0] == pytest.approx(straight[:2], abs=1e-3)
