"""Pictures of searches: looking on changes nothing, and what is shown is what was searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.evaluate import TaskResult, evaluate
from envs.suites import load_suite
from envs.task import TaskSuite
from experiments import plan
from experiments.cli import main
from experiments.plan_search import SearchPictures, cost_around, viewer
from planners.cem import CEMConfig
from planners.gradient import GradientConfig
from planners.icem import ICEMConfig
from planners.mppi import MPPIConfig
from planners.random_shooting import RandomShootingConfig
from planners.refine import CEMGradientConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.report.plan_report import write_plan_report
from worldmodel.report.search_record import SearchRecord

ENV = "worldmodel/TwoRoom-v0"
CEM = CEMConfig(samples=6, iterations=2, elites=2, horizon=3)
PLANNERS = [
    CEM,
    ICEMConfig(samples=6, iterations=2, elites=2, horizon=3),
    MPPIConfig(samples=6, iterations=2, horizon=3),
    RandomShootingConfig(samples=6, iterations=2, horizon=3),
    GradientConfig(samples=4, iterations=2, horizon=3),
    CEMGradientConfig(samples=6, iterations=2, elites=2, horizon=3, steps=2, restarts=2),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained world model of TwoRoom."""
    path = tmp_path_factory.mktemp("model") / "model"
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.6, 0.6])
    WorldModel(WorldModelConfig(actions=spec, env_id=ENV)).save(path)
    return path


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    """Two tasks of a few steps."""
    suite = load_suite("two_room").first(2)
    return TaskSuite(suite.name, suite.env_id, 4, suite.tasks)


def played(config: plan.Config, suite: TaskSuite, count: int) -> tuple[list[TaskResult], Any]:
    policy = plan.load_policy(config, suite)("cpu")
    pictures = SearchPictures(suite, count, config.seed)
    watching = pictures.watch(policy) if count else policy
    return evaluate(suite, watching, 2, record=range(2)), watching


CASES = [("world_model", planner) for planner in PLANNERS]
CASES += [(agent, CEM) for agent in ("simulator", "simulator_latent")]


@pytest.mark.parametrize(("agent", "planner"), CASES)
def test_looking_on_changes_no_action_and_sees_each_iteration(
    model: Path, suite: TaskSuite, agent: str, planner: Any
) -> None:
    config = plan.Config(agent=agent, model="" if agent == "simulator" else str(model), planner=planner)
    alone, _ = played(config, suite, 0)
    watched, policy = played(config, suite, 1)
    for one, other in zip(alone, watched, strict=True):
        assert one.frames is not None and np.array_equal(one.frames, other.frames)  # type: ignore[arg-type]
        assert (one.travelled, one.final_distance) == (other.travelled, other.final_distance)
    assert list(policy.found) == [suite.tasks[0].id], "only the tasks asked for"
    decisions = policy.found[suite.tasks[0].id].decisions
    assert [one.step for one in decisions] == list(range(4))
    for one in decisions:
        assert len(one.best) == len(one.mean) and len(one.first) >= len(one.best)
        for place, best in enumerate(one.best):
            costs = one.first_cost[place]
            assert np.float32(costs[np.isfinite(costs)].min()) == np.float32(best)
        assert one.cost <= min(one.best)


@pytest.mark.parametrize("agent", ["world_model", "simulator"])
def test_the_cost_around_an_action_is_the_cost_of_plans(model: Path, suite: TaskSuite, agent: str) -> None:
    config = plan.Config(agent=agent, model="" if agent == "simulator" else str(model), planner=CEM)
    _, policy = played(config, suite, 1)
    one = policy.found[suite.tasks[0].id].decisions[1]
    assert torch.allclose(
        policy.agent.make_cost(one.history)(one.plan[None, None]), torch.tensor([[one.cost]])
    )
    dims, axes, costs = cost_around(policy.agent, one, 3)
    assert dims.tolist() == [0, 1] and axes.tolist() == [[-1, 0, 1], [-1, 0, 1]] and costs.shape == (3, 3)
    other = one.plan.clone()
    other[0, :, 0], other[0, :, 1] = 1.0, -1.0
    expected = policy.agent.make_cost(one.history)(other[None, None])
    assert np.allclose(costs[0, 2], expected.item()), "columns are the first dimension, rows the second"


def test_the_landscape_of_one_dimension_is_a_line(model: Path, suite: TaskSuite) -> None:
    from planners.base import Bounds

    _, policy = played(plan.Config(model=str(model), planner=CEM), suite, 1)
    one = policy.found[suite.tasks[0].id].decisions[0]
    policy.agent.bounds = Bounds(torch.tensor([-torch.inf, 0.5]), torch.tensor([0.5, 0.5]))
    dims, axes, costs = cost_around(policy.agent, one, 5)
    assert dims.tolist() == [0] and costs.shape == (1, 5)
    assert axes[0, -1] == 0.5 and np.isfinite(axes).all(), "three deviations where there is no bound"


def test_pictures_of_the_command_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["planner.samples=6", "planner.iterations=1", "planner.elites=2", "planner.horizon=3"]
    command = ["plan", f"model={model}", "suite=two_room", "tasks=2", "pictures=1", *small]
    assert main([*command, f"out={tmp_path}/run"]) == 0
    names = {file.name for file in (tmp_path / "run/search").iterdir()}
    assert names == {
        "0000.npz",
        *(f"0000_{kind}.png" for kind in ("costs", "candidates", "futures", "landscape")),
    }
    record = SearchRecord.load(tmp_path / "run/search/0000.npz")
    episode = np.load(tmp_path / "run/episodes/0000.npz")["frames"]
    assert np.array_equal(record.came[:, 0], episode[record.step[record.shown]]), (
        "each begins at its decision"
    )
    assert np.array_equal(record.planned[:, :2], record.came[:, :2]), "the first action is the executed one"
    assert record.imagined.shape == record.planned.shape
    assert "random tasks" in str(record.viewer)
    page = write_plan_report(tmp_path / "run").read_text()
    assert "How it searched: task 0" in page and "Where the first two rows part" in page
    for wrong in (["agent=random", "model="], ["shard=0/2"], ["pictures=-1"]):
        assert main([*command, *wrong, f"out={tmp_path}/wrong"]) == 2
        assert "pictures=" in capsys.readouterr().err


def test_latents_are_shown_by_the_nearest_pictures(model: Path) -> None:
    world_model = WorldModel.load(model)
    view, said = viewer(model, world_model, ENV, "", "cpu")
    from experiments.plan_search import world_frames

    frames = world_frames(ENV)[:3]
    assert (
        np.array_equal(view(world_model.encode(torch.from_numpy(frames))), frames)
        and "nearest of 512" in said
    )


def _fields(record: SearchRecord) -> Sequence[str]:
    return list(vars(record))


def test_a_record_survives_its_file_and_damage_is_named(tmp_path: Path) -> None:
    arrays = {name: np.arange(3.0) for name in SearchRecord.__dataclass_fields__}
    SearchRecord(**arrays).save(tmp_path / "a.npz")
    found = SearchRecord.load(tmp_path / "a.npz")
    assert all(np.array_equal(getattr(found, name), arrays[name]) for name in _fields(found))
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        SearchRecord.load(tmp_path / "a.npz")
