"""The evaluate job from end to end, on little data and a model that was hardly trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.cli import main
from experiments.evaluate import evenly, untrained_like
from experiments.frozen import held_out_share
from experiments.worlds import coordinates, know
from tests.worldmodel.evaluation.moving_point import episodes
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.dynamics.adaln import AdaLNDynamicsConfig
from worldmodel.models.files import directory_hash
from worldmodel.models.heads import PatchHeadConfig
from worldmodel.models.parts import save_value
from worldmodel.models.value import ValueConfig, ValueHead
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig

SMALL = ["horizons=[1,3,99]", "pairs=60", "probe.steps=20", "probe.hidden=8", "train_episodes=6", "threads=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``data`` of 12 episodes and a run ``train`` of one step that held 4 of them out."""
    place = tmp_path_factory.mktemp("evaluate")
    assert main(["collect", "episodes=12", "steps=16", "workers=0", f"out={place}/data"]) == 0
    made = ["variant=untrained", "loop.steps=1", "loop.batch_size=4", "held_out=0.34", "threads=1"]
    assert main(["train", f"data={place}/data", *made, f"out={place}/train"]) == 0
    return place


def evaluate(trained: Path, out: Path, *more: str) -> dict[str, Any]:
    given = [f"model={trained}/train/model", f"data={trained}/data", f"out={out}", *SMALL, *more]
    assert main(["evaluate", *given]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_everything_is_measured_and_shown(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "train", tmp_path / "train")
    shutil.copytree(trained / "data", tmp_path / "data")
    small = ["decoding.loop.steps=2", "decoding.network.width=4", "decoding.loop.batch_size=2"]
    found = evaluate(tmp_path, tmp_path / "out", "control=true", "decoder=true", *small)
    printed = capsys.readouterr().out
    assert found["held_out"] == 4 and found["train"] == 6 and found["notes"] == []
    assert set(found["models"]) == {"trained", "untrained"}
    model = found["models"]["trained"]
    assert list(model["open_loop"]["at"]) == ["1", "3"] and model["open_loop"]["missing"] == [99]
    assert set(model["probes"]["linear"]["targets"]) == {"x", "y", "velocity of x", "velocity of y"}
    assert found["distance"] == "true distance"
    assert {"teleport", "colour", "freeze"} <= set(model["surprise"]["events"])
    assert (
        model["surprise"]["events"]["teleport"]["scorers"]["pixels"]
        == (found["models"]["untrained"]["surprise"]["events"]["teleport"]["scorers"]["pixels"])
    )
    for text in ("untrained", "R2 of x, linear", "cost vs distance", "AUROC"):
        assert text in printed
    for name in ("open_loop", "probes", "plannability", "surprise", "surprise_auroc", "rollouts"):
        assert (tmp_path / f"out/{name}.png").stat().st_size > 1000
    assert (tmp_path / "out/rollouts.mp4").stat().st_size > 1000
    assert (tmp_path / "train/model/decoder/decoder.safetensors").is_file()
    page = (tmp_path / "out/report.html").read_text()
    assert "Left out" not in page

    # The decoder is there: another evaluation uses it. The same one measures nothing again, and makes the page anew.
    before = (tmp_path / "train/model/decoder/decoder.safetensors").stat().st_mtime_ns
    (tmp_path / "out/report.html").unlink()
    evaluate(tmp_path, tmp_path / "out", "control=true", "decoder=true", *small)
    evaluate(tmp_path, tmp_path / "second", "decoder=true", "events=0", *small)
    assert (tmp_path / "train/model/decoder/decoder.safetensors").stat().st_mtime_ns == before
    assert (tmp_path / "out/report.html").is_file()
    assert "surprise" not in json.loads((tmp_path / "second/results.json").read_text())["models"]["trained"]

    # Both of them on one page, and each on its own.
    assert main(["report", f"run={tmp_path}/out"]) == 0
    (tmp_path / "both").mkdir()
    for name in ("out", "second"):
        shutil.move(tmp_path / name, tmp_path / "both" / name)
    assert main(["report", f"run={tmp_path}/both"]) == 0
    both = (tmp_path / "both/report.html").read_text()
    assert "2 world models compared" in both and "second" in both


def test_the_models_card_says_what_was_measured_and_its_hash_stays(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.evaluate.write_evaluation_report", lambda path: path)
    shutil.copytree(trained / "train/model", tmp_path / "model")
    before, card = directory_hash(tmp_path / "model"), (tmp_path / "model/README.md").read_text()
    given = [f"model={tmp_path}/model", f"data={trained}/data", *SMALL]
    assert main(["evaluate", *given, f"out={tmp_path}/out"]) == 0
    found = (tmp_path / "model/README.md").read_text()
    assert found.startswith(card.rstrip()) and "\n\n## Measured on data\n" in found
    assert "| cost vs distance, rho within episodes | " in found and "4 held-out episodes" in found
    assert EpisodeStore(trained / "data").hash in found.partition("## Measured")[2]
    assert directory_hash(tmp_path / "model") == before
    # Again, with a value head beside the model: another evaluation, and the same section.
    head = ValueHead(ValueConfig(hidden=8), 32)
    save_value(tmp_path / "model/value", head, before)
    assert main(["evaluate", *given, f"out={tmp_path}/second", "control=true"]) == 0
    models = json.loads((tmp_path / "second/results.json").read_text())["models"]
    assert set(models["trained"]) - set(models["untrained"]) == {"plannability_value"}
    found = (tmp_path / "model/README.md").read_text()
    assert found.count("## Measured") == 1 and "| value head vs distance, rho within episodes | " in found
    # A head of another model is left out, and a directory that cannot be written costs no results.
    save_value(tmp_path / "model/value", head, "another")

    def full(model: Path, title: str, body: str) -> None:
        raise OSError(30, "Read-only file system", str(model))

    monkeypatch.setattr("experiments.evaluate.note_in_card", full)
    assert main(["evaluate", *given, f"out={tmp_path}/third"]) == 0
    third = json.loads((tmp_path / "third/results.json").read_text())["models"]["trained"]
    assert "plannability_value" not in third
    assert "the value head is left out" in caplog.text and "stays as it is" in caplog.text


def test_the_same_figures_come_out_twice(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.evaluate.write_evaluation_report", lambda path: path)
    assert evaluate(trained, tmp_path / "a") == evaluate(trained, tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["held_out=0.5"], "trained on all but 0.34; use 0.34 at most"),
        (["context=5"], "looks back on 1 steps at most"),
        (["state_dims=[99]"], "0 to"),
        (["horizons=[0]"], "at least 1"),
        (["horizons=[50]"], "16 model steps, too few"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path, tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"model={trained}/train/model", f"data={trained}/data", f"out={tmp_path}/out", *SMALL]
    assert main(["evaluate", *given, *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


def test_data_of_another_robot_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, actions = np.zeros((5, 3, 64, 64), np.uint8), np.zeros((4, 1, 3), np.float32)
    writer = EpisodeWriter(tmp_path / "arm", {"env_id": "", "action_low": [-1] * 3, "action_high": [1] * 3})
    writer.write(0, {"frames": frames, "actions": actions})
    assert main(["evaluate", f"model={trained}/train/model", f"data={tmp_path}/arm"]) == 2
    error = capsys.readouterr().err
    assert "have 3 dimensions, the model was trained with 2" in error and "TwoRoom" in error


def test_data_without_states_and_of_no_known_world_are_measured_as_far_as_they_go(
    trained: Path, tmp_path: Path
) -> None:
    source = EpisodeStore(trained / "data")
    meta = {key: source.meta[key] for key in ("action_low", "action_high")} | {"env_id": "own robot"}
    writer = EpisodeWriter(tmp_path / "data", meta)
    for i in range(8):
        writer.write(i, {name: source[i][name][:] for name in ("frames", "actions")})
    given = [f"model={trained}/train/model", f"data={tmp_path}/data", "held_out=0.5", f"out={tmp_path}/out"]
    assert main(["evaluate", *given, *SMALL]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert any("trained on other data" in note for note in found["notes"])
    assert any("no states" in note for note in found["notes"])
    model = found["models"]["trained"]
    assert "probes" not in model and "plannability" not in model and "open_loop" in model
    assert "wall" in model["surprise"]["unavailable"]
    assert "Left out: the data have no states" in (tmp_path / "out/report.html").read_text()


def test_what_training_held_out_is_what_is_measured(trained: Path, tmp_path: Path) -> None:
    store = EpisodeStore(trained / "data")
    assert held_out_share(0.0, trained / "train/model", store) == (0.34, [])
    assert held_out_share(0.1, trained / "train/model", store) == (0.1, [])
    WorldModel.load(trained / "train/model").save(tmp_path / "copy")
    share, notes = held_out_share(0.0, tmp_path / "copy", store)
    assert share == 0.05 and "does not say" in notes[0]
    assert evenly(range(10, 20), 3) == [10, 14, 19] and evenly(range(3), 9) == [0, 1, 2]


def test_the_control_has_other_weights_and_the_same_scale(trained: Path) -> None:
    model = WorldModel.load(trained / "train/model")
    before = directory_hash(trained / "train/model")
    frames = torch.from_numpy(EpisodeStore(trained / "data")[0]["frames"][:])
    control = untrained_like(model, frames, 0)
    assert torch.equal(control.dynamics.action_std, model.dynamics.action_std)
    latents = control.encode(frames[None])
    assert 0.3 < float(latents.std(dim=1).mean()) < 1.5
    assert not torch.equal(latents, model.encode(frames[None]))
    assert torch.equal(untrained_like(model, frames, 0).encode(frames[None]), latents)
    assert directory_hash(trained / "train/model") == before and not control.training


def test_a_worlds_coordinates_are_named_and_angles_are_sine_and_cosine() -> None:
    from envs.world import make_world

    for env_id, names in (
        ("worldmodel/TwoRoom-v0", ["x", "y", "velocity of x", "velocity of y"]),
        (
            "worldmodel/Reacher-v0",
            ["sin shoulder", "cos shoulder", "sin elbow", "cos elbow", "velocity of shoulder"],
        ),
    ):
        world: Any = make_world(env_id)
        world.reset(seed=0)
        state = world.get_state()
        targets = coordinates(world, len(state))
        assert targets is not None and list(targets.names)[: len(names)] == names
        values = targets.of(state[None])[0]
        assert len(values) == len(targets.names)
        if "sin elbow" in names:
            assert np.allclose(values[:4], [f(state[i]) for i in (1, 2) for f in (np.sin, np.cos)])
    assert coordinates(object(), 9) is None


def test_unknown_worlds_take_the_euclidean_distance_of_chosen_dimensions() -> None:
    data = episodes(4)
    found = know("nowhere", {}, data, [1], ["row", "column"])
    assert found.distances is not None and found.render is None
    assert found.distance_name == "Euclidean distance of column"
    assert found.distances(np.array([[0.0, 3]]), np.array([[9.0, 1]])).tolist() == [2.0]
    unchosen = know("nowhere", {}, data, [], [])
    assert unchosen.distances is None and unchosen.targets is not None
    assert any("state_dims" in note for note in unchosen.notes)


def test_many_tokens_with_proprioception_a_history_and_blocks_of_actions(tmp_path: Path) -> None:
    """A model of another kind: patch tokens and one of proprioception, dynamics that look back, two actions a step."""
    torch.manual_seed(0)
    size = VideoEncoderConfig(image_size=24, frames=4, patch_size=8, tubelet=2, width=12, depth=1, heads=2)
    actions = ActionSpec([-1.0, -1.0], [1.0, 1.0], 2, [0.0, 0.0], [0.5, 0.5])
    dynamics = AdaLNDynamicsConfig(width=16, depth=1, heads=2, head_width=8, mlp_hidden=16, context=2)
    config = WorldModelConfig(size, PatchHeadConfig(), dynamics, actions, proprio=ProprioSpec(2), window=2)
    WorldModel(config).save(tmp_path / "model")
    writer = EpisodeWriter(tmp_path / "data", {"env_id": "", "action_low": [-1, -1], "action_high": [1, 1]})
    for i, episode in enumerate(episodes(8, steps=24)):
        assert episode.states is not None
        arrays = {"frames": episode.frames, "actions": episode.actions.numpy(), "states": episode.states}
        writer.write(i, {**arrays, "proprio": episode.states.astype(np.float32)})
    more = ["held_out=0.5", "control=true", "state_dims=[0,1]", "decoder=true", "decoding.loop.steps=1"]
    given = [f"model={tmp_path}/model", f"data={tmp_path}/data", f"out={tmp_path}/out", *SMALL, *more]
    assert main(["evaluate", *given, "decoding.network.width=4", "decoding.loop.batch_size=2"]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    model = found["models"]["trained"]
    assert found["context"] == 2 and model["latent"]["tokens"] == 10 and model["latent"]["width"] == 12
    assert set(model["probes"]["mlp"]["targets"]) == {"state 0", "state 1"}
    assert found["distance"] == "Euclidean distance of state 0, state 1"
    assert (tmp_path / "model/decoder/config.json").is_file()
