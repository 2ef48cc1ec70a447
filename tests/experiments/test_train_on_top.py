"""A value head and a slow level on top of a trained model: by the command line, interrupted, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.cli import main
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.dynamics import AdaLNDynamicsConfig
from worldmodel.models.files import directory_hash
from worldmodel.models.heads import PatchHeadConfig
from worldmodel.models.parts import load_slow, load_value
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.known_latents import KnownLatents
from worldmodel.objectives.slow_dynamics import SlowLatentDynamics
from worldmodel.objectives.value import TemporalDistance

LOOP = ["loop.steps=6", "loop.batch_size=4", "loop.precision=fp32", "loop.log_every=1", "threads=1"]
VALUE = ["train_value", "window=6", "value.hidden=8", *LOOP]
SLOW = ["train_slow", "window=3", "slow.steps=2", "slow.hidden=8", "dynamics.hidden=8", *LOOP]
JOBS = {"value": (VALUE, TemporalDistance), "slow": (SLOW, SlowLatentDynamics)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``data`` of 12 episodes and a run ``train`` that held 3 of them out."""
    place = tmp_path_factory.mktemp("on_top")
    assert main(["collect", "episodes=12", "steps=16", "workers=0", f"out={place}/data"]) == 0
    made = ["variant=untrained", "loop.steps=2", "loop.batch_size=4", "held_out=0.25", "threads=1"]
    assert main(["train", f"data={place}/data", *made, "loop.precision=fp32", f"out={place}/train"]) == 0
    return place


@pytest.fixture
def model(place: Path, tmp_path: Path) -> Path:
    """A copy of the world model's directory."""
    shutil.copytree(place / "train" / "model", tmp_path / "model")
    return tmp_path / "model"


def start(part: str, place: Path, model: Path, out: Path, *more: str) -> int:
    return main([*JOBS[part][0], f"model={model}", f"data={place}/data", f"out={out}", *more])


@pytest.mark.parametrize("part", JOBS)
def test_a_part_is_trained_measured_and_put_beside_the_model(
    place: Path, model: Path, tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, before = directory_hash(model), WorldModel.load(model).state_dict()
    assert start(part, place, model, tmp_path / "run") == 0
    assert f"in {model}/{part}" in capsys.readouterr().out
    load: Any = load_value if part == "value" else load_slow
    trained, card = load(model / part, model), (model / part / "README.md").read_text()
    assert not trained.training and "6 steps on 9 episodes" in card
    facts = json.loads((model / part / "config.json").read_text())["facts"]
    assert facts["data"] == EpisodeStore(place / "data").hash and facts["held_out"] == 0.25
    if part == "value":
        assert -1 <= facts["steps_to_go"]["all"]["rho"] <= 1 and "| value head | latent distance |" in card
        assert facts["steps_to_go"]["window"]["pairs"] < facts["steps_to_go"]["all"]["pairs"]
    else:
        assert facts["open_loop"]["steps"] == [2, 4, 6] and "| slow level | model below |" in card
        assert trained.encoder.macro_std.min() > 0 and trained.encoder.macro_mean.abs().max() > 0
        assert torch.equal(trained.encoder.action_std, before["dynamics.action_std"])
    assert directory_hash(model) == name
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    assert not (tmp_path / "run/latents").exists()

    # The same command again trains nothing, and puts its part back where another one has been since.
    state = (tmp_path / "run" / part / "config.json").stat().st_mtime_ns
    assert start(part, place, model, tmp_path / "other", "seed=1") == 0
    weights = "value" if part == "value" else "dynamics"
    files = [model / part / f"{weights}.safetensors", tmp_path / "run" / part / f"{weights}.safetensors"]
    assert files[0].read_bytes() != files[1].read_bytes()
    assert start(part, place, model, tmp_path / "run") == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (tmp_path / "run" / part / "config.json").stat().st_mtime_ns == state


@pytest.mark.parametrize("part", JOBS)
def test_interrupted_anywhere_it_ends_with_the_same_weights(
    place: Path, model: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(part, place, model, tmp_path / "whole") == 0
    objective: Any = JOBS[part][1]
    real, calls = objective.forward, list[int]()

    def stopping(self: Any, batch: Batch) -> dict[str, torch.Tensor]:
        assert isinstance(self.model, KnownLatents) and batch.views[0].shape[-1] == 32, "latents are cached"
        calls.append(batch.step)
        if calls.count(3) == 1 and batch.step == 3:
            raise KeyboardInterrupt
        found: dict[str, torch.Tensor] = real(self, batch)
        return found

    more = ["loop.checkpoint_steps=2"]
    monkeypatch.setattr(objective, "forward", stopping)
    assert start(part, place, model, tmp_path / "parts", *more) == 130
    assert not (tmp_path / "parts/done.json").exists()
    assert start(part, place, model, tmp_path / "parts", *more) == 0
    assert calls.count(1) == 1 and sorted(calls)[-6:] == [2, 2, 3, 3, 4, 5], "it went on from its last state"
    for file in sorted((tmp_path / "whole" / part).iterdir()):
        assert file.read_bytes() == (tmp_path / "parts" / part / file.name).read_bytes(), file.name
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()


def test_many_tokens_proprioception_a_history_and_blocks_of_actions(tmp_path: Path) -> None:
    """The cached latents are those of the model, whatever it sees."""
    size = VideoEncoderConfig(image_size=24, frames=4, patch_size=8, tubelet=2, width=12, depth=1, heads=2)
    actions = ActionSpec([-1.0, -1.0], [1.0, 1.0], 2, [0.0, 0.0], [0.5, 0.5])
    dynamics = AdaLNDynamicsConfig(width=16, depth=1, heads=2, head_width=8, mlp_hidden=16, context=2)
    config = WorldModelConfig(size, PatchHeadConfig(), dynamics, actions, proprio=ProprioSpec(2), window=2)
    WorldModel(config).save(tmp_path / "model")
    writer = EpisodeWriter(tmp_path / "data", {"env_id": "", "action_low": [-1, -1], "action_high": [1, 1]})
    for index in range(6):
        rng = np.random.default_rng(index)
        arrays: dict[str, np.ndarray] = {
            "frames": rng.integers(0, 256, (25, 3, 24, 24), dtype=np.uint8),
            "actions": rng.uniform(-1, 1, (24, 1, 2)).astype(np.float32),
            "proprio": rng.normal(size=(25, 2)).astype(np.float32),
        }
        writer.write(index, arrays)
    for part, more in (("value", []), ("slow", ["dynamics=gru"])):
        job = [word for word in JOBS[part][0] if not word.startswith("dynamics.")]
        given = [f"model={tmp_path}/model", f"data={tmp_path}/data", f"out={tmp_path}/{part}"]
        assert main([*job, *given, *more]) == 0
    assert load_slow(tmp_path / "model/slow", tmp_path / "model").tokens == 10
    assert load_value(tmp_path / "model/value", tmp_path / "model").width == 12

    from experiments.frozen import cached, open_frozen
    from worldmodel.training.run import Run

    frozen = open_frozen(f"{tmp_path}/model", f"{tmp_path}/data", 0.2)
    windows = cached(frozen, Run(tmp_path / "cache", {}), 3, "float32")
    tokens = torch.from_numpy(windows.frames([4]))  # begins at frame 4 of the first episode
    frames = torch.from_numpy(frozen.store[0]["frames"][2:11:2])[None]
    body = torch.from_numpy(frozen.store[0]["proprio"][2:11:2])[None]
    wanted = frozen.model.encode(frames, body)[:, 1:, :9]
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        (
            "value",
            ["window=30"],
            "no episode has the 30 steps of window=30 (the longest for training has 16)",
        ),
        ("slow", ["slow.steps=9"], "no episode has the 27 steps of window=3 slow.steps=9"),
        ("slow", ["objective.rollout_steps=4"], "need a longer window than 3; set window=4"),
        ("value", ["value.target=reward"], "set value.target=distance"),
        ("value", ["held_out=0.5"], "trained on all but 0.25; use 0.25 at most"),
        ("value", ["window=0"], "window must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    place: Path,
    model: Path,
    tmp_path: Path,
    part: str,
    change: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert start(part, place, model, tmp_path / "run", *change) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]
    assert not (model / part).exists()


def test_data_of_another_robot_and_models_that_are_none_are_refused(
    place: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = EpisodeWriter(tmp_path / "data", {"env_id": "", "action_low": [-1] * 3, "action_high": [1] * 3})
    for index in range(2):
        frames, actions = np.zeros((17, 3, 64, 64), np.uint8), np.zeros((16, 1, 3), np.float32)
        writer.write(index, {"frames": frames, "actions": actions})
    assert start("value", tmp_path, model, tmp_path / "run") == 2
    assert "have 3 dimensions, the model was trained with 2" in capsys.readouterr().err
    assert start("slow", place, place / "train", tmp_path / "run") == 2
    assert f"is a run, not a model; give {place}/train/model" in capsys.readouterr().err
