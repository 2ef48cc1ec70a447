"""Pretraining on video files, end to end: through a kill, with every objective, and on from another model."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import clips, pretrain
from experiments.cli import main
from tests.experiments.tiny_pretraining import TINY, finished_steps, videos, weights
from worldmodel.models.pretrained import load_encoder, load_predictor
from worldmodel.objectives.base import Objective
from worldmodel.training.loop import fit
from worldmodel.training.run import read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with videos(tmp_path_factory.mktemp("corpus")) as folder:
        yield folder


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, to go on from."""
    out = tmp_path_factory.mktemp("source")
    assert main(["pretrain", *TINY, f"data={data}", f"out={out}", "report=false", "loop.lr=0.01"]) == 0
    return out / "model"


@pytest.fixture(scope="module")
def damaged(data: Path) -> Path:
    """The same videos, and one that is none."""
    folder = data.parent / "damaged"
    folder.mkdir()
    for video in data.iterdir():
        (folder / video.name).hardlink_to(video)
    (folder / "bad.mp4").write_bytes(b"no video " * 100)
    return folder


@pytest.mark.filterwarnings("ignore::worldmodel.data.corpus_damage.DamageWarning")
def test_killed_at_any_step_it_ends_with_the_same_bits(
    damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps, every = 48, 5
    job = [
        "pretrain", *TINY, f"data={damaged}", "corpus.max_damaged=0.5", "report=false", "workers=1", "flip=0.5",
        "mask=vjepa", f"loop.steps={steps}", "loop.monitor_every=10", f"loop.checkpoint_steps={every}",
    ]  # fmt: skip
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    metrics, log = killed / "metrics.jsonl", tmp_path / "log"
    with open(log, "w") as file:
        command = [sys.executable, "-m", "experiments.pretrain", *job[1:], f"out={killed}"]
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        deadline = time.monotonic() + 120
        while not (metrics.exists() and len(read_metrics(metrics)) > 7):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        said = log.read_text()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    _wait_until_none_is_left(process.pid)
    done = finished_steps(killed)
    assert 0 < done < steps and done % every == 0
    assert not (killed / "model").exists()
    # What the user saw: one line of the file that was left out, and no line of our code.
    assert [line for line in said.splitlines() if "bad.mp4" in line or ".py" in line] == [
        f"warning: left out {damaged / 'bad.mp4'}: {_skipped(killed)[0]['reason']}"
    ]

    assert main([*job, f"out={killed}"]) == 0
    # It went on; beginning again would give the same bits.
    assert f"step {done} of {steps}" in capfd.readouterr().err
    assert main([*job, f"out={whole}"]) == 0
    assert weights(killed) == weights(whole)
    assert list(weights(whole)) == [
        f"{part}.safetensors" for part in ("encoder", "predictor", "target_encoder")
    ]
    assert (killed / "state.safetensors").read_bytes() == (whole / "state.safetensors").read_bytes()
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in read_metrics(metrics)] == list(range(steps))
    for run in (killed, whole):
        assert [row["path"] for row in _skipped(run)] == [str(damaged / "bad.mp4")]


def _wait_until_none_is_left(group: int) -> None:
    """Processes that read videos end with the one that was killed; they once stayed for ever."""
    if not Path("/proc/self/stat").exists():
        return
    deadline = time.monotonic() + 20
    while left := _group(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _group(group: int) -> list[str]:
    """What runs in a process group."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = file.read_text()
        except OSError:  # it has just ended
            continue
        state, _, its_group, *_ = text.rpartition(")")[2].split()
        if int(its_group) == group and state != "Z":
            found.append(text)
    return found


def _skipped(run: Path) -> list[dict[str, str]]:
    with open(run / "skipped.csv", newline="") as file:
        return list(csv.DictReader(file))


VJEPA = {"encoder", "target_encoder", "predictor"}
KINDS: dict[str, tuple[list[str], set[str]]] = {
    "vjepa": (["mask=vjepa"], VJEPA),
    "videomae": (["objective=videomae", "mask=videomae"], {"encoder", "decoder"}),
    "no predictor": (["objective.predictor=none"], {"encoder", "target_encoder", "hidden_patches"}),
    "no EMA": (["objective.target_encoder=online"], {"encoder", "predictor"}),
    "I-JEPA's masks": (["mask=ijepa"], VJEPA),
    "future": (["mask=future"], VJEPA),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_and_mask_gives_a_model_and_a_report(
    kind: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, parts = KINDS[kind]
    monkeypatch.setattr(clips, "BANK", 8)
    started = _spy_on_the_start(monkeypatch)
    assert main(["pretrain", *TINY, f"data={data}", f"out={tmp_path}", *settings]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"encoder in {tmp_path / 'model'}",
        f"report in {tmp_path / 'report.html'}",
    ]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)

    _check_model(tmp_path / "model", parts)
    trained = load_encoder(tmp_path / "model", weights="student").state_dict()
    moved = [name for name, value in trained.items() if not torch.equal(value, started[f"encoder.{name}"])]
    assert moved == list(trained), "every weight of the encoder learns"
    page = (tmp_path / "report.html").read_text()
    assert f"{'VideoMAE' if kind == 'videomae' else 'V-JEPA'} pretraining" in page
    assert "Left out" not in page


def test_a_cooldown_begins_with_the_model_s_weights(
    data: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More frames, and larger ones, as in V-JEPA 2's second phase."""
    started = _spy_on_the_start(monkeypatch)
    longer = ["encoder.frames=8", "encoder.image_size=48", f"init_from={source}", "report=false", "seed=7"]
    assert main(["pretrain", *TINY, f"data={data}", f"out={tmp_path}", *longer]) == 0
    for part in ("student", "ema"):
        name = {"student": "encoder", "ema": "target_encoder"}[part]
        _assert_same(load_encoder(source, part), started, name)
    _assert_same(load_predictor(source), started, "predictor")
    before, after = load_encoder(source, "student"), load_encoder(source, "ema")
    assert not torch.equal(before.patch_embed.weight, after.patch_embed.weight), "the two are told apart"
    encoder = _check_model(tmp_path / "model", VJEPA, steps=4, places=36)
    assert (encoder.config.frames, encoder.config.image_size) == (8, 48)
    assert load_predictor(tmp_path / "model").grid == encoder.grid


def test_without_a_report_none_is_promised(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *TINY, f"data={data}", f"out={tmp_path}", "report=false"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"encoder in {tmp_path / 'model'}"]
    assert not (tmp_path / "report.html").exists()


def _spy_on_the_start(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Fills with the objective's weights as they are before the first step."""
    state: dict[str, torch.Tensor] = {}

    def spy(objective: Objective, *rest: object) -> None:
        state.update({name: value.clone() for name, value in objective.state_dict().items()})
        fit(objective, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain, "fit", spy)
    return state


def _assert_same(module: nn.Module, state: dict[str, torch.Tensor], part: str) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[f"{part}.{name}"]), f"{part}.{name}"


def _check_model(model: Path, parts: set[str], steps: int = 2, places: int = 16):  # type: ignore[no-untyped-def]
    """The directory has these parts, and they can be used."""
    assert {file.stem for file in model.glob("*.safetensors")} == parts
    encoder = load_encoder(model)
    size, frames = encoder.config.image_size, encoder.config.frames
    clip = torch.randint(0, 256, (1, frames, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = encoder.encode(clip)
        assert tokens.shape == (1, steps, places, 24) and tokens.isfinite().all()
        if "predictor" in parts:
            seen, hidden = torch.arange(10)[None], torch.arange(10, 30)[None]
            predicted = load_predictor(model)(encoder.encode(clip, keep=seen), seen, hidden)
            assert predicted.shape == (1, 20, 24) and predicted.isfinite().all()
        else:
            with pytest.raises(FileNotFoundError, match="has no part predictor"):
                load_predictor(model)
    if "target_encoder" not in parts:
        with pytest.raises(ValueError, match="has no EMA weights; use student"):
            load_encoder(model, weights="ema")
    return encoder
