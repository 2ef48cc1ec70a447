"""The benchmark of decisions: both sides play the same tasks with one function as predictor; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from envs.evaluate import Goals, NoOp, Observation
from envs.suites import load_suite
from experiments.bench_decide import DecideBench, measure, play_in_turns
from experiments.bench_plan_peer import _fold_norms
from experiments.cli import main
from worldmodel.models.dynamics import AdaLNDynamicsConfig
from worldmodel.models.heads import ProjectorHeadConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

ENV = "worldmodel/TwoRoom-v0"
SIZE = {"width": 16, "depth": 2, "heads": 2, "head_width": 8, "mlp_hidden": 32, "context": 3}


def save(path: Path, config: WorldModelConfig) -> Path:
    """An untrained model, whose norms are not those that training begins with."""
    torch.manual_seed(0)
    model = WorldModel(config)
    for norm in model.dynamics.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
    for name, weight in model.dynamics.named_parameters():
        if "modulation" in name:
            nn.init.normal_(weight, std=0.2)
    model.save(path)
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.6, 0.6])
    return save(tmp_path_factory.mktemp("ours") / "model", WorldModelConfig(actions=spec, env_id=ENV))


@pytest.fixture(scope="module")
def lewm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ActionSpec([-1.0, -1.0], [1.0, 1.0], per_step=5, mean=[0.1, 0.0], std=[0.6, 0.5])
    dynamics = AdaLNDynamicsConfig(**SIZE, action_width=10, projection=24, projection_norm="batch")
    head = ProjectorHeadConfig(hidden=32, width=16)
    config = WorldModelConfig(head=head, dynamics=dynamics, actions=spec, env_id=ENV)
    return save(tmp_path_factory.mktemp("lewm") / "model", config)


def test_ours_alone_and_the_results_go_into_a_new_directory(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder" / "bench.json"
    small = ["what=[decide]", "decide.tasks=1", f"decide.model={ours}", f"out={out}"]
    assert main(["bench", *small]) == 0
    assert "s per environment step, ours" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert 0 <= found["decide: goals reached of 1, ours"] <= 1
    assert found["decide: s per solve, ours"] == found["decide: s per environment step, ours"] > 0


def test_the_other_side(ours: Path, lewm: Path) -> None:
    pytest.importorskip("torch_world")
    bench = DecideBench(model=str(ours), lewm=str(lewm), tasks=1, samples=6, elites=2, iterations=2)
    figures = measure(bench, ["torch-world"], "")
    assert figures["decide: largest difference of predictions, torch-world"] < 1e-5
    solve, step = (
        figures[f"decide: s per {unit}, lewm, torch-world"] for unit in ("solve", "environment step")
    )
    assert solve > step > 0, "25 steps are carried out before it plans again"
    assert figures["decide: s per environment step, of ours"] > 0


class Counting(NoOp):
    """Does nothing, and says for which task it was asked."""

    def __init__(self, order: list[str], name: str) -> None:
        super().__init__(ENV)
        self.order, self.name = order, name

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        super().reset(goals, seeds)
        self.order.append(self.name)

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return np.repeat(super().act(observation, active), 25, axis=1)


def test_sides_take_turns_and_whole_plans_end_at_the_horizon() -> None:
    order: list[str] = []
    suite = load_suite("two_room").first(3)
    played = play_in_turns(suite, {"a": Counting(order, "a"), "b": Counting(order, "b")})
    assert order == ["a", "b"] * 3
    for results in played.values():
        assert [result.id for result in results] == [task.id for task in suite]
        assert {result.steps for result in results} == {suite.horizon}


def test_norms_in_front_of_a_modulation_become_part_of_it(lewm: Path) -> None:
    block = WorldModel.load(lewm).dynamics.blocks[0]  # type: ignore[union-attr,index]
    x, condition = torch.randn(5, 16), torch.randn(5, 16)
    folded = nn.Linear(16, 6 * 16)
    folded.load_state_dict(block.modulation.state_dict())
    with torch.no_grad():
        _fold_norms(folded, block)
        plain = nn.functional.layer_norm(x, (16,), eps=1e-6)
        own, theirs = (layer(condition).chunk(6, dim=-1) for layer in (block.modulation, folded))
        for first, norm in ((0, block.norm1), (3, block.norm2)):
            expected = norm(x) * (1 + own[first + 1]) + own[first]
            torch.testing.assert_close(plain * (1 + theirs[first + 1]) + theirs[first], expected)
            torch.testing.assert_close(theirs[first + 2], own[first + 2], msg="gates stay")


def test_mistakes_are_one_line(
    ours: Path, lewm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*settings: str) -> str:
        assert main(["bench", "what=[decide]", "decide.tasks=1", *settings]) == 2
        return capsys.readouterr().err

    assert "decide.model=MODEL" in says()
    both = [f"decide.model={ours}", "against=[torch-world]"]
    assert "decide.lewm=MODEL" in says(*both)
    assert "is no LeWM" in says(*both, f"decide.lewm={ours}")
    assert "choose some of torch-world" in says("against=[stable-worldmodel]")
    assert "install torch-world" in says(*both, f"decide.lewm={lewm}", "peer_python=/bin/false")
    assert "cannot be run" in says(*both, f"decide.lewm={lewm}", f"peer_python={tmp_path}/none")
    assert "trained in" in says(*both, f"decide.lewm={lewm}", "decide.world=reacher")
    assert "execute at most horizon" in says("decide.execute=9")
    assert f"out={tmp_path} is a directory" in says(f"decide.model={ours}", f"out={tmp_path}")
    (tmp_path / "file").touch()
    assert "file" in says(f"decide.model={ours}", f"out={tmp_path}/file/bench.json")
