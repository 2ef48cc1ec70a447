"""A pretraining's page: what it shows, what it does without, and that it can be made again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel.report.pretraining_report import (
    _hidden,
    remake_pretraining_report,
    write_pretraining_report,
)
from worldmodel.report.pretraining_run import Facts, PretrainingRun, Source
from worldmodel.report.video import encode_mp4

FACTS = Facts(
    sources=(Source("videos/train", 3, 0.5, 0.75), Source("more", 1, 0.1, 0.25)),
    skipped=(("videos/<broken>.mp4", "moov atom not found"),),
    command="worldmodel pretrain data=videos/train",
    clip_fps=4.0,
)


def text_of(page: Path) -> str:
    """What a reader sees: no tags, no embedded files."""
    content = page.read_text(encoding="utf-8")
    content = re.sub(r"<style>.*?</style>", "", content, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", content).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, fake: Any) -> Path:
    path: Path = fake.make_run(tmp_path_factory.mktemp("runs") / "first")
    fake.write_probe(path / "probe_order", 0.8, 0.5)
    film = path.parent / "street.mp4"
    film.write_bytes(encode_mp4(fake.make_frames(24, 32, 64), fps=8, side=64))
    facts = replace(FACTS, videos=(str(film), str(path.parent / "gone.mp4")))
    encoder = PretrainingRun(path).encoder()
    write_pretraining_report(path, encoder, fake.make_encoder(3), fake.make_bank(), facts)
    return path


def test_the_page_says_what_was_trained_on_what(written: Path) -> None:
    text = text_of(written / "report.html")
    assert "V-JEPA pretraining: first" in text
    assert "2 blocks of width 48" in text
    # 99 steps were logged last, at batch size 8; each clip lasts a second.
    assert "Clips seen 792" in text
    assert "13.2 min, 0.4 × the 36.0 min there are" in text
    assert "0.640 by predicting" not in text
    assert "videos/train 3 30.0 min 75%" in text
    assert "1 file skipped" in text
    assert "videos/&lt;broken&gt;.mp4 moov atom not found" in text
    assert "worldmodel pretrain data=videos/train" in text
    assert "50% of the tokens seen, 16 to predict" in text
    assert "lr: 0.001" in text


def test_the_page_needs_no_server_and_no_network(written: Path) -> None:
    content = (written / "report.html").read_text()
    links = re.findall(r'(?:src|href|srcset)="([^"]{0,40})', content)
    assert len(links) > 30
    assert all(link.startswith("data:") for link in links)
    assert "<video" in content
    assert 'aria-label="street and its features"' in content
    for name in ("features.png", "features.mp4"):
        assert (written / name).stat().st_size > 1000


def test_a_video_that_cannot_be_read_is_named(written: Path) -> None:
    assert re.search(r"Left out: \S*gone\.mp4", text_of(written / "report.html"))


def test_probes_with_their_control(written: Path) -> None:
    text = text_of(written / "report.html")
    assert "probe_order: linear pretrained 80.0% 70.0–90.0% 50" in text
    assert "probe_order: linear untrained 50.0%" in text
    assert "the pretrained encoder beats the untrained one" in text


def test_the_page_is_made_again_from_the_directory_alone(written: Path) -> None:
    before = text_of(written / "report.html"), np.asarray(Image.open(written / "features.png"), dtype=int)
    state = torch.get_rng_state()
    assert remake_pretraining_report(written) == written / "report.html"
    assert text_of(written / "report.html") == before[0]
    # The untrained control is made from the seed again, so its pictures are the same, too (but for rounding).
    assert np.abs(np.asarray(Image.open(written / "features.png"), dtype=int) - before[1]).max() <= 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_that_has_only_begun(tmp_path: Path, fake: Any) -> None:
    path = fake.make_run(tmp_path / "begun", model=False)
    (path / "metrics.jsonl").unlink()
    (path / "done.json").unlink()
    text = text_of(remake_pretraining_report(path))
    assert "because the run has no model yet" in text
    assert "nothing is logged yet" in text
    assert "kept no report/facts.json" in text
    (path / "config.json").write_text((path / "config.json").read_text().replace("target_norm", "normalise"))
    assert "VideoMAE pretraining: begun" in text_of(remake_pretraining_report(path))
    assert "No probe has been run" in text


def test_damaged_parts_are_remarked_and_the_rest_is_shown(tmp_path: Path, fake: Any) -> None:
    path = fake.make_run(tmp_path / "damaged")
    (path / "probe_x").mkdir()
    (path / "probe_x" / "results.json").write_text('{"probes": {"linear": {"pretrained": {}}}}')
    text = text_of(write_pretraining_report(path, PretrainingRun(path).encoder(), None, fake.make_bank(2, 3)))
    assert "Left out: the probes." in text
    assert "probe_x/results.json holds no probes" in text
    assert "Learning rate over training" in (path / "report.html").read_text()
    (path / "report" / "clips.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"clips\.npz is damaged"):
        remake_pretraining_report(path)


def test_features_that_are_not_finite_are_said(tmp_path: Path, fake: Any) -> None:
    path, encoder = fake.make_run(tmp_path / "nan", model=False), fake.make_encoder()
    torch.nn.init.constant_(encoder.norm.weight, float("nan"))
    encoder.train()
    text = text_of(write_pretraining_report(path, encoder, None, fake.make_bank()))
    assert "the features are not finite" in text
    assert encoder.training  # as it was before


def test_odd_metrics_are_drawn_too(tmp_path: Path, fake: Any) -> None:
    path = fake.make_run(tmp_path / "odd", model=False)
    losses = [1.0, 0.9, 0.8, None, float("nan"), 0.7]
    rows = [
        {
            "step": s,
            "loss": losses[s],
            "grad_norm_encoder": 0.1,
            "grad_norm_predictor": 0.2,
            "odd_figure": s,
            "flag": True,
        }
        for s in range(6)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = remake_pretraining_report(path).read_text()
    assert 'alt="Loss over training"' in content
    assert 'alt="Grad norm over training"' in content
    assert 'alt="Odd figure over training"' in content
    assert "Flag over training" not in content


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run at"):
        remake_pretraining_report(tmp_path)


def test_clips_survive_the_disk(tmp_path: Path, fake: Any) -> None:
    run, bank = PretrainingRun(fake.make_run(tmp_path / "r", model=False)), fake.make_bank()
    run.keep(FACTS, bank)
    again = run.clips()
    assert again is not None
    np.testing.assert_array_equal(again.frames, bank.frames)
    assert (again.names, again.starts, again.fps) == (bank.names, bank.starts, bank.fps)
    assert run.facts() == FACTS


@pytest.mark.parametrize(
    ("objective", "said", "not_said"),
    [
        ({}, "The predictor is told which tokens are missing", "mask tokens in place"),
        ({"predictor": "none"}, "mask tokens in place of the hidden patches", "The predictor is told"),
        ({"target_encoder": "online"}, "the same encoder, without gradient", "the target encoder"),
    ],
)
def test_the_page_tells_of_the_objective_that_was_trained(
    objective: dict[str, str], said: str, not_said: str
) -> None:
    """An ablation without a predictor or an EMA is not described as the method that it leaves out."""
    text = _hidden("V-JEPA", {"target_norm": "layer", **objective})
    assert said in text and not_said not in text
