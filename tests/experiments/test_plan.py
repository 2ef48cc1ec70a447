"""Evaluating agents: outcomes depend on checkpoint and tasks only, shards add up, and results can be made again."""

from __future__ import annotations

import dataclasses
import filecmp
import json
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from envs.evaluate import TaskResult, evaluate
from envs.suites import load_suite
from envs.task import TaskSuite
from experiments import cli, plan
from experiments.cli import main
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

ENV = "worldmodel/TwoRoom-v0"
PLANNER = CEMConfig(samples=8, iterations=2, elites=2, horizon=4)
SMALL = ["planner.samples=8", "planner.iterations=1", "planner.elites=2", "planner.horizon=3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained world model of TwoRoom."""
    path = tmp_path_factory.mktemp("model") / "model"
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.6, 0.6])
    WorldModel(WorldModelConfig(actions=spec, env_id=ENV)).save(path)
    return path


def short(suite: TaskSuite, steps: int) -> TaskSuite:
    return dataclasses.replace(suite, horizon=steps)


def outcomes(results: list[TaskResult]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.to_json().items() if k != "seconds_per_decision"} for r in results]


def played(path: Path) -> list[dict[str, Any]]:
    tasks = json.loads((path / "results.json").read_text())["tasks"]
    return [{k: v for k, v in task.items() if k != "seconds_per_decision"} for task in tasks]


@pytest.mark.parametrize("agent", ["world_model", "simulator_latent"])
def test_outcomes_are_the_same_bits_with_1_8_and_32_environments_and_twice(model: Path, agent: str) -> None:
    count, steps = (34, 3) if agent == "world_model" else (10, 2)
    suite = short(load_suite("two_room").first(count), steps)
    config = plan.Config(agent=agent, model=str(model), planner=PLANNER)
    films: list[list[np.ndarray]] = []
    found = []
    for num_envs in (1, 8, 32, 32):
        policy = plan.load_policy(config, suite)("cpu")
        results = evaluate(suite, policy, num_envs, record=range(count))
        found.append(outcomes(results))
        films.append([result.frames for result in results if result.frames is not None])
    assert found[0] == found[1] == found[2] == found[3]
    assert all(np.array_equal(a, b) for other in films[1:] for a, b in zip(films[0], other, strict=True))
    assert len({task["travelled"] for task in found[0]}) == count, "they do move, each in its own way"


def test_the_true_simulator_leads_the_latent_search(model: Path) -> None:
    """With latents that tell where the ball is, search with the true dynamics reaches goals."""
    from experiments.agents import simulator_latent_policy

    suite = load_suite("two_room").first(8)
    suite = dataclasses.replace(suite, tasks=tuple(task for task in suite if task.label == "same room"))
    world = WorldModel.load(model)

    def see(frames: torch.Tensor, proprio: object = None) -> torch.Tensor:
        """The centre of what is red, as one token."""
        red = ((frames[:, 0] > 150) & (frames[:, 1] < 120)).float()
        x = torch.linspace(-1, 1, 64)
        mass = red.sum(dim=(1, 2)).clamp_min(1)
        places = [(red.sum(dim=1) * x).sum(dim=1) / mass, (red.sum(dim=2) * x).sum(dim=1) / mass]
        return torch.stack(places, dim=1)[:, None]

    world.encode = see  # type: ignore[method-assign, assignment]
    planner = CEMConfig(samples=24, iterations=2, elites=4, horizon=6)
    policy = simulator_latent_policy(ENV, world, planner, GoalCostConfig(), MPCConfig())
    results = evaluate(suite, policy, 3)
    assert len(results) == 3 and all(result.success for result in results)


def test_shards_add_up_to_the_whole(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "suite=two_room", "tasks=5", f"model={model}", *SMALL]
    assert main([*command, f"out={tmp_path}/whole"]) == 0
    for shard in ("1/3", "0/3"):
        assert main([*command, f"out={tmp_path}/parts", f"shard={shard}"]) == 0
    assert "the same command without shard puts them together" in capsys.readouterr().out
    lines = (tmp_path / "parts/shards/1-of-3/tasks.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 4]
    assert not (tmp_path / "parts/results.json").exists()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts/shards").rglob("*.npz")}
    assert main([*command, f"out={tmp_path}/parts"]) == 0  # the third shard was never played
    assert played(tmp_path / "parts") == played(tmp_path / "whole")
    ids = [json.loads(line)["id"] for line in (tmp_path / "parts/tasks.jsonl").read_text().splitlines()]
    assert ids == [0, 1, 2, 3, 4]
    names = ["suite.json", "config.json", *[f"episodes/{i:04d}.npz" for i in range(5)]]
    assert filecmp.cmpfiles(tmp_path / "parts", tmp_path / "whole", names, shallow=False)[0] == names
    assert {file: file.stat().st_mtime_ns for file in before} == before, "shards are left as they are"


def test_a_shard_of_another_configuration_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "agent=random", "tasks=2", f"out={tmp_path}/r"]
    assert main([*command, "seed=1", "shard=0/2"]) == 0
    assert main(command) == 2
    assert "0-of-2 holds a shard of another configuration" in capsys.readouterr().err


def test_a_shard_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    command = ["plan", "agent=random", "tasks=6", f"out={tmp_path}/r", "num_envs=1"]
    shard = tmp_path / "r/shards/0-of-2"
    assert main([*command, "shard=0/2"]) == 0
    log = shard / "tasks.jsonl"
    whole = [{**json.loads(line), "seconds_per_decision": 0} for line in log.read_text().splitlines()]
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:30])  # killed while it wrote the second task
    assert main([*command, "shard=0/2"]) == 0
    again = [{**json.loads(line), "seconds_per_decision": 0} for line in log.read_text().splitlines()]
    assert again == whole


def test_a_launcher_says_which_shard_this_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert main(["plan", "agent=noop", "tasks=3", f"out={tmp_path}/r", "shard=auto"]) == 0
    assert [file.name for file in (tmp_path / "r/shards").iterdir()] == ["1-of-2"]
    # Under torchrun each process works for itself, and joins no group.
    monkeypatch.setattr(cli, "_launched", lambda: 4)
    module: ModuleType = SimpleNamespace(SHARDED=True)  # type: ignore[assignment]
    assert isinstance(cli._processes("plan", module, ["shard=auto"]), nullcontext)
    with pytest.raises(cli.UsageError, match="shard=auto"):
        cli._processes("plan", module, [])


def test_results_have_all_that_is_needed_to_make_them_again(tmp_path: Path, model: Path) -> None:
    assert main(["plan", "suite=two_room", "tasks=3", f"model={model}", *SMALL, f"out={tmp_path}/r"]) == 0
    found = json.loads((tmp_path / "r/results.json").read_text())
    assert found["suite"] == load_suite("two_room").first(3).hash
    assert found["suite"] == TaskSuite.load(tmp_path / "r/suite.json").hash
    assert found["env"] == ENV and found["suite_name"] == "two_room" and found["horizon"] == 40
    assert found["seeds"] == {"plan": 0, "tasks": None} and len(found["model"]) == 64
    assert {"python", "torch", "numpy", "gymnasium", "mujoco", "worldmodel"} == set(found["versions"])
    assert "unknown" not in found["versions"].values()
    assert found["labels"] == {"other room": [0, 2], "same room": [0, 1]}
    assert len(found["success_by_step"]) == 41 and found["success_by_step"][-1] == found["successes"]
    assert found["held"] is None and found["final"]["successes"] == found["successes"]


def test_the_recorded_solutions_reach_all_and_say_when(tmp_path: Path) -> None:
    assert main(["plan", "agent=replay", "suite=two_room", "tasks=4", f"out={tmp_path}/r"]) == 0
    found = json.loads((tmp_path / "r/results.json").read_text())
    steps = [len(task.solution) for task in load_suite("two_room").first(4)]
    assert found["successes"] == 4 and found["path_efficiency"] > 0.8
    assert found["success_by_step"] == [sum(n <= step for n in steps) for step in range(41)]


def test_going_on_after_a_success_tells_reaching_from_staying(tmp_path: Path) -> None:
    command = ["plan", "agent=scripted", "tasks=3", "after_success=continue", f"out={tmp_path}/r"]
    assert main(command) == 0
    found = json.loads((tmp_path / "r/results.json").read_text())
    assert found["held"]["successes"] == found["final"]["successes"] == found["successes"] == 3
    frames = np.load(tmp_path / "r/episodes/0000.npz")["frames"]
    assert len(frames) == 41 > found["tasks"][0]["steps"] + 1


def test_the_model_is_loaded_once(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = WorldModel.load
    monkeypatch.setattr(WorldModel, "load", lambda path: loads.append(path) or load(path))
    assert main(["plan", "tasks=1", f"model={model}", *SMALL, f"out={tmp_path}/r"]) == 0
    assert len(loads) == 1


def test_another_world_only_where_it_is_asked_for(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "suite=reacher", "tasks=1", f"model={model}", *SMALL, f"out={tmp_path}/r"]
    assert main(command) == 2
    assert "other_world=true" in capsys.readouterr().err
    assert main([*command, "other_world=true"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("suite=no_room agent=noop", "two_room"),
        ("suite=two_room agent=noop env=worldmodel/Reacher-v0", "leave env out"),
        ("suite=two_room agent=noop tasks=201", "choose 1 to 200"),
        ("agent=noop after_success=stop", "freeze or continue"),
        ("agent=noop shard=3/3", "shard=0/3"),
        ("agent=simulator_latent", "needs model=MODEL_DIRECTORY"),
        ("agent=noop tasks=-1", "tasks must not be negative"),
    ],
)
def test_mistakes_are_one_line(
    settings: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *settings.split(), f"out={tmp_path}/r"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


FEW = {
    "icem": ["planner.samples=8", "planner.elites=2"],
    "mppi": ["planner.samples=8"],
    "random_shooting": ["planner.samples=8"],
    "gradient": [],
    "cem_gradient": [],
}


@pytest.mark.parametrize("kind", FEW)
def test_every_planner_plans_with_a_world_model(model: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    settings = [f"planner={kind}", "planner.horizon=3", "planner.iterations=2", *FEW[kind]]
    assert main(["plan", f"model={model}", *settings, "cost.action=0.1", "tasks=1", f"out={out}"]) == 0
    assert len(played(out)) == 1


def test_what_planners_and_costs_cannot_do_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["agent=simulator", "planner=gradient"], "planner=gradient follows the cost's gradient, and agent="),
        (
            ["agent=simulator_latent", f"model={model}", "planner=cem_gradient"],
            "agent=simulator_latent has none",
        ),
        (["agent=simulator", "cost.action=1"], "cost.action has no effect on agent=simulator"),
        (["agent=simulator", "cost.weighting=uniform"], "cost.weighting has no effect on agent=simulator"),
        (
            ["agent=simulator_latent", f"model={model}", "cost.consistency=1"],
            "cost.consistency is about a model's",
        ),
        ([f"model={model}", "cost.disagreement=1"], "train it with members=3"),
        ([f"model={model}", "cost.proprio=1"], "cost.proprio needs a model with proprioception"),
        ([f"model={model}", "value=true"], "value"),
        (["agent=random", "value=true"], "value=true"),
    ):
        assert main(["plan", *words, "tasks=1"]) == 2
        assert said in (error := capsys.readouterr().err) and error.count("\n") == 1, error


def test_a_value_head_takes_the_distances_place(model: Path, tmp_path: Path) -> None:
    """It orders states by the first number of the latent, and the plan follows it instead of the distance."""
    from experiments.agents import latent_agent

    world = WorldModel.load(model)
    seen: list[torch.Size] = []

    def value(latents: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        seen.append(latents.shape)
        return (latents - goals)[..., 0, 0]

    agent = latent_agent(world, PLANNER, GoalCostConfig(), MPCConfig(), value=value)
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    agent.reset(frames, [0, 1])
    with_value = agent.act(frames.flip(0))
    plain = latent_agent(world, PLANNER, GoalCostConfig(), MPCConfig())
    plain.reset(frames, [0, 1])
    assert seen and not torch.equal(with_value, plain.act(frames.flip(0)))
