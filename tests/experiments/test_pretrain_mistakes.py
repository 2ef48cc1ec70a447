"""What users get wrong in a pretraining: one line that says what to do, and nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from experiments.cli import main
from tests.experiments.tiny_pretraining import TINY, finished_steps, videos, weights
from worldmodel.data.episodes import EpisodeWriter
from worldmodel.training import checkpoint

PREFIX = "worldmodel pretrain: error: "


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with videos(tmp_path_factory.mktemp("corpus")) as folder:
        yield folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, six steps long."""
    out = tmp_path_factory.mktemp("finished")
    assert main(job(data, out, *SIX)) == 0
    return out


SIX = ("loop.steps=6", "loop.checkpoint_steps=2")


def job(data: object, out: Path, *settings: str) -> list[str]:
    return ["pretrain", *TINY, "report=false", f"data={data}", f"out={out}", *settings]


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command line, which is to end with one line of error; returns it.

    Before training begins nothing else is said; ``training=True`` allows for what a training says.
    """

    def run(argv: list[str], training: bool = False) -> str:
        capsys.readouterr()
        assert main(argv) == 2
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        errors = [line for line in lines if line.startswith(PREFIX)]
        assert len(errors) == 1 and (training or lines == errors), printed.err
        assert lines[-1] == errors[0] and "Traceback" not in printed.err and not printed.out
        return errors[0].removeprefix(PREFIX)

    return run


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["loop.stepz=3"], ["unknown key loop.stepz, did you mean loop.steps?"]),
        (["encoder.widht=24"], ["unknown key encoder.widht, did you mean encoder.width?"]),
        (["recipe=vjepa2_vitl"], ["recipe=vjepa2_vitl: no such option, did you mean vjepa2_vitl16?"]),
        (["mask.random_tube.ratio=0.01"], ["mask.random_tube.ratio=0.01 hides 0 of the 16 places"]),
        (["mask.random_tube.ratio=0.99"], ["mask.random_tube.ratio=0.99 hides 16 of the 16 places"]),
        (["mask.random_tube.ratio=1.0"], ["ratio=1.0 leaves nothing to see or to predict"]),
        (["mask=ijepa", "encoder.patch_size=16"], ["mask.ijepa.min_keep=10", "a context of"]),
        (["encoder.patch_size=7"], ["encoder.patch_size=7 must divide image_size=32"]),
        (
            ["loop.accumulate=3"],
            ["loop.batch_size=4 cannot be shared by loop.accumulate=3; choose a multiple of 3"],
        ),
        (["init_from=nowhere/model"], ["no model at nowhere/model"]),
        (["held_out=1.5"], ["held_out=1.5"]),
        (
            ["objective.predictor=mlp"],
            ["objective.predictor='mlp' is unknown; choose one of transformer, none"],
        ),
    ],
)
def test_settings(
    settings: list[str], wanted: list[str], data: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "run"
    message = refused(job(data, out, *settings))
    assert all(text in message for text in wanted), message
    assert not out.exists(), "the corrected command can use the same directory"


def test_data(data: Path, tmp_path: Path, refused: Refused) -> None:
    out, empty, prose = tmp_path / "run", tmp_path / "empty", tmp_path / "notes.txt"
    empty.mkdir()
    (empty / "readme.md").write_text("no video")
    prose.write_text("Some notes of mine,\nand no paths.\n")
    assert f"found no videos in {empty}: no file there" in refused(job(empty, out))
    assert "data=... is missing" in refused(job("", out))
    missing = tmp_path / "missing"
    assert f"{missing}: No such file or directory; give a folder" in refused(job(missing, out))
    message = refused(job(prose, out))
    assert f"2 of 2 listed files do not exist ({tmp_path / 'Some notes of mine,'}, " in message
    assert not out.exists()


def test_a_file_that_is_neither_a_video_nor_a_list(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "notes.md").write_text("no video")
    message = refused(job(tmp_path / "notes.md", tmp_path / "run"), training=True)
    assert str(tmp_path / "notes.md") in message and "cannot be read as a video" in message


def test_episodes_that_are_shorter_than_a_clip(tmp_path: Path, refused: Refused) -> None:
    writer = EpisodeWriter(tmp_path / "data", {"env_id": "fake", "action_low": [-1.0], "action_high": [1.0]})
    for index in range(4):
        frames = np.zeros((9, 3, 32, 32), np.uint8)
        writer.write(index, {"frames": frames, "actions": np.zeros((8, 1, 1), np.float32)})
    message = refused(job(tmp_path / "data", tmp_path / "run", "encoder.frames=16", "held_out=0.25"))
    assert (
        f"{tmp_path / 'data'}: no episode has the 15 steps that a window needs (the longest has 8)" in message
    )
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_shape_to_begin_with(
    data: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    before = weights(finished)
    begin = f"init_from={finished / 'model'}"
    message = refused(job(data, tmp_path / "run", begin, "encoder.width=36"))
    assert f"{finished / 'model' / 'encoder.safetensors'} does not fit" in message
    assert "has shape (24, 384) instead of (36, 384)" in message
    assert "trained with: encoder.width=24 encoder.depth=" in message
    assert not (tmp_path / "run").exists(), "or the corrected command would be refused"
    message = refused(job(data, tmp_path / "run2", begin, "objective=videomae"))
    assert "has no part decoder" in message
    message = refused(job(data, tmp_path / "run3", f"init_from={finished}"))
    assert f"{finished} is a run, not a model; give {finished / 'model'}" in message
    assert weights(finished) == before


def test_the_directory_of_another_run(data: Path, finished: Path, refused: Refused) -> None:
    before = {
        file: file.read_bytes() for file in finished.rglob("*") if file.is_file() and file.name != ".lock"
    }
    message = refused(job(data, finished, *SIX, "encoder.width=36"))
    assert f"{finished} holds a run with encoder.width=24, not 36; choose another out=..." in message
    assert {file: file.read_bytes() for file in before} == before


def test_a_training_state_of_another_shape(
    data: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    state = tmp_path / "state.safetensors"
    shutil.copy(finished / state.name, state)
    message = refused(job(data, tmp_path, *SIX, "encoder.width=36"))
    assert f"{state} does not fit this model: " in message
    assert "encoder.patch_embed.weight has shape (24, 384) instead of (36, 384)" in message
    assert message.endswith("; continue with the settings that it was made with, or choose another out=...")
    assert state.read_bytes() == (finished / state.name).read_bytes()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_full_disk_while_the_state_is_saved(
    data: Path, finished: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def full(tensors: dict[str, torch.Tensor], path: Path, **options: Any) -> None:
        saved.append(path)
        if len(saved) > 1:  # as safetensors says it, with a part written
            Path(path).write_bytes(b"part")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, **options)

    monkeypatch.setattr(checkpoint, "save_file", full)
    message = refused(job(data, tmp_path, *SIX), training=True)
    state = tmp_path / "state.safetensors"
    assert message == f"no space left for {state}; free some, then run the same command again"
    assert finished_steps(tmp_path) == 2, "the state before"
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
    monkeypatch.undo()
    assert main(job(data, tmp_path, *SIX)) == 0
    assert weights(tmp_path) == weights(finished)


@pytest.mark.filterwarnings("ignore::worldmodel.data.corpus_damage.DamageWarning")
def test_too_many_damaged_files(data: Path, tmp_path: Path, refused: Refused) -> None:
    folder, out = tmp_path / "videos", tmp_path / "run"
    shutil.copytree(data, folder)
    bad = [folder / "bad0.mp4", folder / "bad1.mp4"]
    for file in bad:
        file.write_bytes(b"no video " * 100)
    message = refused(job(folder, out, "corpus.max_damaged=0.2", "loop.batch_size=8"), training=True)
    assert "2 of 8 files are damaged, more than max_damaged=0.2 allows: " in message
    assert all(f"{file} (cannot be read as a video" in message for file in bad)
    assert f"the list is in {out / 'skipped.csv'}; " in message and "raise max_damaged" in message
    listed = (out / "skipped.csv").read_text()
    assert all(listed.count(str(file)) == 1 for file in bad)
    assert not (out / "model").exists()
    assert main(job(folder, out, "corpus.max_damaged=0.3", "loop.batch_size=8")) == 0
    assert (out / "skipped.csv").read_text() == listed
