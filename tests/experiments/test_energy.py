"""The energy job from end to end, on small videos and tiny networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import energy, pretrain
from experiments.cli import JOBS, main
from experiments.settings import compose_settings
from tests.worldmodel.evaluation.probe_data import COLOURS, SIZE, write_video
from worldmodel.evaluation.energy_models import open_pretrained, untrained
from worldmodel.masks import MaskConfig
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.pretrained import save_encoder
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.report.markup import Html
from worldmodel.report.pretraining_page import probe_table
from worldmodel.report.pretraining_run import PretrainingRun

PREDICTOR = MaskedPredictorConfig(width=24, depth=1, heads=2, mask_tokens=2)
FUTURE = {"short": asdict(MaskConfig(kind="blocks")), "next": asdict(MaskConfig(kind="future"))}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy") / "videos"
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", seed, COLOURS["red" if seed % 2 else "blue"])
    return folder


def write_model(path: Path, **about: Any) -> Path:
    """Random weights, whose mask tokens differ."""
    torch.manual_seed(0)
    encoder, target = VideoEncoder(SIZE), VideoEncoder(SIZE)
    predictor = MaskedPredictor(PREDICTOR, encoder.grid, encoder.width)
    with torch.no_grad():
        predictor.mask_tokens.normal_()
    parts = {"encoder": encoder, "target_encoder": target, "predictor": predictor}
    config = {"encoder": asdict(SIZE), "predictor": asdict(PREDICTOR), "fps": 10.0, **about}
    save_encoder(path, parts, config, "for tests\n")
    return path


def run(model: Path, videos: Path, out: Path, *overrides: str) -> dict[str, Any]:
    given = [f"model={model}", f"data={videos}", f"out={out}", "device=cpu", "clips=3", *overrides]
    config: energy.Config = compose_settings("energy", energy.Config, given).to_object()
    return energy.run(config)


def test_results_are_written_and_the_pretrainings_report_lists_them(videos: Path, tmp_path: Path) -> None:
    """In a pretraining's directory the results are a probe like others."""
    model = write_model(tmp_path / "model", mask=FUTURE)
    out = tmp_path / "probe-energy"
    results = run(model, videos, out, "control=true")
    assert results["test"] == 12 and results["videos"] == 4 and results["fps"] == 10.0
    assert results["mask_index"] == 1 and results["context_steps"] == [1] and not results["notes"]
    assert results["target_norm"] == "layer" and results["loss"] == "l1"
    assert json.loads((out / "results.json").read_text()).items() <= results.items()
    assert (out / "energies.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "energies.csv").read_text().splitlines()) == 1 + 2 * 12
    text = energy.outcome(results)
    assert "12 clips at 10 frames/s of 4 videos" in text and "note" not in text
    assert run(model, videos, out, "control=true") == results  # done already

    (tmp_path / "config.json").write_text("{}")
    probes = PretrainingRun(tmp_path).probes()
    assert [(each.kind, each.encoder) for each in probes] == [
        (f"energy, {key}", name)
        for key in ("reversed", "shuffled", "elsewhere")
        for name in ("pretrained", "untrained")
    ]
    assert all(each.low <= each.value <= each.high and each.count == 12 for each in probes)
    page: Html = probe_table(PretrainingRun(tmp_path))
    assert "probe-energy: energy, reversed" in str(page)


def test_without_mask_future_it_says_so(videos: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", mask={"short": FUTURE["short"]})
    results = run(model, videos, tmp_path / "a", "comparisons=[reversed]")
    assert results["mask_index"] == 0
    assert "note: the model was not pretrained with mask=future" in energy.outcome(results)
    other = run(model, videos, tmp_path / "b", "comparisons=[reversed]", "mask_index=1")
    figures = [each["probes"]["energy, reversed"]["pretrained"]["likely"] for each in (results, other)]
    assert figures[0] != figures[1]  # another mask token


def test_what_pretrain_leaves_is_all_that_is_needed(videos: Path, tmp_path: Path) -> None:
    """Masks, loss, targets, rate and held-out part come from the model directory."""
    given = [
        *(f"data={videos}", f"out={tmp_path}/run", "device=cpu", "workers=0", "report=false", "held_out=0.7"),
        *("corpus.held_out_by=time", "corpus.fps=5", "mask=[short,future]", "mask.future.ratio=0.25"),
        *("objective.loss=l2", "objective.target_norm=centred", "loop.steps=1", "loop.batch_size=2"),
    ]
    settings = compose_settings("pretrain", pretrain.Config, given, schemas=pretrain.SCHEMAS)
    model = pretrain.run(settings.to_object())
    results = run(model, videos, tmp_path / "energy", "fps=10", "clips=2", "control=true")
    wanted = {"mask_index": 1, "context_steps": [3], "target_norm": "centred", "loss": "l2", "fps": 10.0}
    assert results.items() >= wanted.items()
    assert "the last 70% of each video, held out in pretraining" in results["part"]
    assert results["test"] == 8


def test_the_control_is_the_same_architecture_with_other_weights(tmp_path: Path) -> None:
    model = open_pretrained(write_model(tmp_path / "model"))
    before = torch.get_rng_state()
    control, again, other = untrained(model, 0), untrained(model, 0), untrained(model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert control.encoder.config == model.encoder.config and control.target_encoder is None
    weights = [each.encoder.blocks[0].attn.qkv.weight for each in (model, control, again, other)]  # type: ignore[union-attr]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[1], weights[0]) and not torch.equal(weights[1], weights[3])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["comparisons=[speed]"], "choose some of reversed, shuffled, elsewhere"),
        (["clips=1"], "clips=1 leaves no other time of a video"),
        (["context_steps=[2]"], "leave nothing to see or to predict"),
        (["loss=huber"], "loss='huber' is unknown"),
        (["fps=0.1"], "none of 4 videos is long enough"),
    ],
)
def test_mistakes_are_one_line(
    videos: Path, tmp_path: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    given = [f"model={model}", f"data={videos}", f"out={tmp_path}/run", "device=cpu", *overrides]
    assert main(["energy", *given], jobs={"energy": JOBS["energy"]}) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_a_model_without_predictor_is_refused(videos: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path / "model", {"encoder": VideoEncoder(SIZE)}, {"encoder": asdict(SIZE)}, "")
    with pytest.raises(ValueError, match="has no predictor, only encoder"):
        run(tmp_path / "model", videos, tmp_path / "run")
