"""Jobs on small data: what they refuse, and that planning needs more than chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.evaluate import Goals, Observation, evaluate
from envs.task import make_suite
from experiments import train
from experiments.agents import LatentPolicy, latent_agent
from experiments.cli import main
from experiments.settings import compose_settings
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig

ENV = "worldmodel/TwoRoom-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "episodes"
    assert main(["collect", "episodes=8", "workers=0", f"out={out}"]) == 0
    return out


def small_model() -> WorldModel:
    torch.manual_seed(0)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.6, 0.6])
    return WorldModel(WorldModelConfig(actions=spec, env_id=ENV)).eval()


def latent_policy(model: WorldModel) -> LatentPolicy:
    return LatentPolicy(
        latent_agent(model, CEMConfig(samples=32, elites=4, iterations=2), GoalCostConfig(), MPCConfig())
    )


def test_a_constant_encoder_fails_the_tasks() -> None:
    """Goals are images only: an encoder that sees nothing must not reach them, or something else tells the goal."""
    model = small_model()
    with torch.no_grad():
        model.head.reduce.weight.zero_()
    latents = model.encode(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    assert torch.equal(latents, latents[:1].expand_as(latents))
    results = evaluate(make_suite(ENV, 12, seed=0), latent_policy(model), num_envs=12)
    assert sum(result.success for result in results) <= 1


def test_the_planner_sees_pictures_only() -> None:
    seen: list[object] = []

    class Spy(LatentPolicy):
        def reset(self, goals: Goals, seeds: np.ndarray) -> None:
            seen.append(goals.states)
            super().reset(goals, seeds)

        def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
            seen.append(observation.states)
            assert observation.frames.dtype == np.uint8
            return super().act(observation, active)

    evaluate(make_suite(ENV, 2, seed=0), Spy(latent_policy(small_model()).agent), num_envs=2)
    assert len(seen) > 10
    assert all(states is None for states in seen)


def test_outcomes_do_not_depend_on_how_many_are_planned_at_once() -> None:
    suite = make_suite(ENV, 5, seed=0)

    def outcomes(num_envs: int) -> list[tuple[int, float]]:
        results = evaluate(suite, latent_policy(small_model()), num_envs=num_envs)
        return [(result.steps, result.final_distance) for result in results]

    assert outcomes(1) == outcomes(3) == outcomes(5)


def test_tasks_and_data_are_drawn_from_different_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seed that collection can be given draws what the tasks were drawn from."""
    import envs.collect
    import envs.task
    from envs.seeding import keyed_rng

    drawn: dict[str, set[str]] = {}

    def spy(module: Any, name: str) -> None:
        def keyed(stream: str, *key: int) -> np.random.Generator:
            drawn.setdefault(name, set()).add(stream)
            return keyed_rng(stream, *key)

        monkeypatch.setattr(module, "keyed_rng", keyed)

    spy(envs.collect, "data")
    spy(envs.task, "tasks")
    list(envs.collect.collect(ENV, 1, 3, seed=0))
    make_suite(ENV, 3, seed=0)
    assert drawn == {"data": {"collect"}, "tasks": {"tasks"}}
    draws = [keyed_rng(stream, 0, i).integers(2**63) for stream in ("collect", "tasks") for i in range(200)]
    assert len(set(draws)) == 400


def test_an_interrupted_evaluation_plays_only_the_tasks_that_are_missing(tmp_path: Path) -> None:
    small_model().save(tmp_path / "model")
    small = [f"model={tmp_path}/model", "tasks=3", "num_envs=1", "planner.samples=8", "planner.elites=2"]
    assert main(["plan", *small, f"out={tmp_path}/whole"]) == 0
    assert main(["plan", *small, f"out={tmp_path}/parts"]) == 0
    log = tmp_path / "parts/tasks.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:20])  # killed while it wrote the second task
    (tmp_path / "parts/done.json").unlink()
    (tmp_path / "parts/results.json").unlink()
    first = (tmp_path / "parts/episodes/0000.npz").stat().st_mtime_ns
    assert main(["plan", *small, f"out={tmp_path}/parts"]) == 0
    assert (tmp_path / "parts/episodes/0000.npz").stat().st_mtime_ns == first

    def outcomes(name: str) -> list[dict[str, Any]]:
        tasks = json.loads((tmp_path / name / "results.json").read_text())["tasks"]
        return [{k: v for k, v in task.items() if k != "seconds_per_decision"} for task in tasks]

    assert outcomes("parts") == outcomes("whole")


def test_episodes_that_pretraining_saw_cannot_be_held_out_later(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", f"data={data}", f"out={tmp_path}/p", "loop.steps=1", "loop.batch_size=2"]) == 0
    command = [
        "train",
        f"data={data}",
        f"out={tmp_path}/t",
        f"encoder_from={tmp_path}/p/model",
        "held_out=0.5",
    ]
    assert main(command) == 2
    assert "use held_out=0.05 at most" in capsys.readouterr().err


def test_a_run_keeps_the_threads_that_it_began_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "agent=noop", "tasks=1", f"out={tmp_path}/r"]
    assert main([*command, "threads=1"]) == 0
    assert main(command) == 0
    assert main([*command, "threads=2"]) == 2
    assert "began with threads=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("collect env=worldmodel/NoRoom-v0 out={tmp}/d", "worldmodel/TwoRoom-v0"),
        ("collect policy=clever out={tmp}/d", "held_direction"),
        ("pretrain data={tmp}/nowhere", "nowhere"),
        (
            "pretrain data={data} out={tmp}/p mask.random_tube.ratio=0.01",
            "mask.random_tube.ratio=0.01 hides 0 of the 16 places",
        ),
        ("pretrain data={data} out={tmp}/p encoder.image_size=48", "frames of 64 x 64 pixels"),
        ("pretrain data={data} out={tmp}/p encoder.frames=64", "no episode has the 63 steps"),
        ("pretrain data={data} out={tmp}/p encoder.heads=5", "encoder.heads=5 must divide"),
        ("pretrain out={tmp}/p", "data"),
        ("train data={data} out={tmp}/t", "variant=frozen needs encoder_from"),
        ("train data={data} out={tmp}/t variant=end_to_end window=60", "no episode has the 60 steps"),
        ("train data={data} out={tmp}/t variant=end_to_end held_out=1.5", "held_out=1.5 is no share"),
        ("train data={data} out={tmp}/t variant=end_to_end loop.lr=1e30", "the loss is not finite"),
        ("collect episodes=0 out={tmp}/d", "episodes and steps must be at least 1"),
        ("train data={data} out={tmp}/t encoder_from={tmp}/nowhere", "no model at"),
        ("train data={data} out={tmp}/t variant=end_to_end device=tpu", "device='tpu'"),
        ("plan out={tmp}/r", "needs model=MODEL_DIRECTORY"),
        ("plan out={tmp}/r model={data}", "no model at"),
        ("plan out={tmp}/r agent=random planner.elites=500", "elites"),
        ("plan out={tmp}/r agent=magic", "agent='magic' is unknown"),
        ("report run={tmp}/nowhere", "nowhere"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    command: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [word.format(data=data, tmp=tmp_path) for word in command.split()]
    assert main(argv) == 2
    *said, error = capsys.readouterr().err.strip().splitlines()
    assert message in error and error.startswith("worldmodel ")
    assert not any("Traceback" in line or "rror" in line for line in said), "what stands before is progress"


def test_a_run_with_another_configuration_in_the_same_place_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["pretrain", f"data={data}", f"out={tmp_path}/p", "loop.batch_size=2"]
    assert main([*small, "loop.steps=2"]) == 0
    assert main([*small, "loop.steps=3"]) == 2
    assert "loop.steps=2, not 3" in capsys.readouterr().err


def test_a_finished_evaluation_is_not_taken_for_one_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command over a model that had been trained again printed the old model's results."""
    model = small_model()
    model.save(tmp_path / "model")
    command = [
        "plan",
        f"model={tmp_path}/model",
        f"out={tmp_path}/r",
        "tasks=1",
        "planner.samples=4",
        "planner.elites=1",
    ]
    assert main(command) == 0
    with torch.no_grad():
        model.head.reduce.bias.add_(1.0)
    model.save(tmp_path / "model")
    assert main(command) == 2
    assert "inputs.model=" in capsys.readouterr().err


def test_a_checkpoint_of_another_shape_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", f"data={data}", f"out={tmp_path}/p", "loop.steps=1", "loop.batch_size=2"]) == 0
    config = tmp_path / "p/model/config.json"
    config.write_text(config.read_text().replace('"width": 96', '"width": 48'))
    assert main(["train", f"data={data}", f"out={tmp_path}/t", f"encoder_from={tmp_path}/p/model"]) == 2
    assert "does not fit this model" in capsys.readouterr().err


def test_a_full_disk_is_one_clear_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["collect", "episodes=2", "workers=0", f"out={tmp_path}/d"]) == 2
    printed = capsys.readouterr().err.strip()
    assert f"no space left for {tmp_path}/d" in printed
    assert len(printed.splitlines()) == 1


def test_bench_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "episodes=4", "workers=0", "repeats=1", "batch_size=2"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("frames/s", "clips/s, bf16", "ms per decision"))


def test_the_encoder_that_train_takes_for_none_chosen_is_the_one_in_its_configuration() -> None:
    """It once compared with the class's defaults, which had become others: every frozen training was refused."""
    settings = compose_settings("train", train.Config, ["data=x", "variant=untrained"]).to_object()
    assert settings.encoder == train.tiny_encoder() == train.Config(data="x", variant="untrained").encoder
