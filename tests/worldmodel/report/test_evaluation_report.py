"""The page of a world model's evaluation: what is missing is said, what is damaged is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.worldmodel.evaluation.moving_point import DEAF, EXACT, draw, episodes
from worldmodel.atomic import write_json
from worldmodel.evaluation.model_study import Plan, measure, table
from worldmodel.evaluation.plannability import euclidean, plannability
from worldmodel.evaluation.state_probes import MLPProbeConfig, varying_targets
from worldmodel.evaluation.surprise import FreeMotion, example_events, make_events
from worldmodel.report.evaluation_figures import open_loop_picture
from worldmodel.report.evaluation_report import (
    KIND,
    find_evaluations,
    rollout_strip,
    rollout_video,
    write_evaluation_report,
    write_evaluations,
)
from worldmodel.report.kinds import kind_of
from worldmodel.report.theme import LIGHT


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Results and arrays of the true dynamics and of deaf ones as their control."""
    held_out, train = episodes(5, steps=12, wall=True), episodes(6, steps=12, first=50, wall=True)
    motion = FreeMotion.fit(train, [0, 1])
    events = make_events(held_out, 1, render=draw, motion=motion)
    probe = MLPProbeConfig(hidden=8, steps=20)
    distances = euclidean([0, 1])
    plan = Plan((1, 5), varying_targets(train), probe, distances, 50, events, [0.5, 0.5], ["down", "<right>"])
    trained, arrays = measure(EXACT, held_out, train, plan)
    control, more = measure(DEAF, held_out, train, plan)
    pixels, points = plannability(held_out, distances, 50, pixels=True)
    arrays |= {f"untrained.{name}": values for name, values in more.items()}
    arrays |= {f"pixels.{name}": values for name, values in points.items()} | example_events(held_out, events)
    frames = np.stack([episode.frames[:6] for episode in held_out[:2]])
    arrays |= {f"rollout.{name}": frames for name in ("true", "decoded", "imagined")}
    results = {
        "kind": KIND, "model": "runs/train/a/model", "data": "d", "seed": 0, "env_id": "", "held_out": 5, "train": 6,
        "context": 1, "distance": "distance in <pixels>", "notes": ["a <note>"], "pixels": pixels,
        "models": {"trained": trained, "untrained": control},
    }  # fmt: skip
    return json.loads(json.dumps(results)), arrays


def write(path: Path, results: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    path.mkdir(parents=True)
    write_json(path / "results.json", results)
    np.savez(path / "arrays.npz", **arrays)  # type: ignore[arg-type]
    return path


def test_the_page_has_every_part(measured: tuple[dict, dict], tmp_path: Path) -> None:
    path = write(tmp_path / "run", *measured)
    page = write_evaluation_report(path).read_text()
    assert kind_of(path) == "evaluation"
    for text in (
        "World model: a",
        "Imagined beside true",
        "a &lt;note&gt;",
        "&lt;right&gt;",
        "Untrained control",
    ):
        assert text in page
    assert "Left out" not in page and "<note>" not in page
    with Image.open(path / "plannability.png") as picture:
        assert picture.width > picture.height > 300
    assert (path / "rollouts.mp4").stat().st_size > 500


def test_what_was_not_measured_is_said(measured: tuple[dict, dict], tmp_path: Path) -> None:
    results, arrays = json.loads(json.dumps(measured[0])), dict(measured[1])
    for model in results["models"].values():
        del model["probes"], model["plannability"], model["plannability_imagined"]
        model["surprise"] = {"events": {}, "unavailable": {"wall": "nothing draws it"}, "span": 3}
    arrays = {name: values for name, values in arrays.items() if not name.startswith("rollout")}
    path = write(tmp_path / "run", results, arrays)
    page = write_evaluation_report(path).read_text()
    for text in (
        "decoder=true",
        "the data have no states",
        "the true distance is not known",
        "nothing draws it",
    ):
        assert text in page
    assert not (path / "surprise.png").exists()
    assert "not available" in table(results)


def test_damage_is_named(measured: tuple[dict, dict], tmp_path: Path) -> None:
    path = write(tmp_path / "run", *measured)
    content = (path / "arrays.npz").read_bytes()
    (path / "arrays.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="arrays.npz is missing or damaged"):
        write_evaluation_report(path)
    (path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        write_evaluation_report(path)
    with pytest.raises(FileNotFoundError, match="no finished evaluation"):
        write_evaluation_report(tmp_path)


def test_several_stand_side_by_side_and_unlike_data_are_warned_of(
    measured: tuple[dict, dict], tmp_path: Path
) -> None:
    results, arrays = measured
    write(tmp_path / "first", results, arrays)
    with pytest.raises(FileNotFoundError, match="holds 1 evaluations"):
        write_evaluations(tmp_path)
    write(
        tmp_path / "deep/second", {**results, "models": {"trained": results["models"]["untrained"]}}, arrays
    )
    assert [p.name for p in find_evaluations(tmp_path)] == ["second", "first"]
    assert kind_of(tmp_path) == "evaluations"
    page = write_evaluations(tmp_path).read_text()
    for h in (1, 5):  # a row of its own for every horizon
        assert f"over that of copy last, {h} step" in page
    assert "deep/second" in page and "same data" not in page
    write(tmp_path / "third", {**results, "data": "other"}, arrays)
    assert "not measured on the same data" in write_evaluations(tmp_path).read_text()


def test_the_title_says_who_is_better(measured: tuple[dict, dict]) -> None:
    titles = []
    for name in ("trained", "untrained"):
        result = measured[0]["models"][name]["open_loop"]
        ratio = result["at"]["5"]["ratio"]["copy_last"]["value"]
        titles.append(ratio < 1)
        assert Image.open(io.BytesIO(open_loop_picture(result, LIGHT))).width == 1120
    assert titles == [True, False]


def test_rollouts_show_the_three_rows(measured: tuple[dict, dict]) -> None:
    arrays = measured[1]
    strip, video = rollout_strip(arrays), rollout_video(arrays)
    assert strip.shape[2] == 3 and strip.shape[1] > strip.shape[0]
    assert video.shape[0] == 2 * (6 + 3) and video.shape[1] == 3
    assert video.shape[2] % 2 == video.shape[3] % 2 == 0
