"""The comparison of objectives, tiny: its rows, what they share, labels, table and picture, and that it continues."""

from __future__ import annotations

import csv
import importlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import pretrain, step_cost
from experiments.cli import main
from experiments.compare_objectives import (
    BEGINS_WITH,
    Config,
    check_shared,
    is_finished,
    labels_of,
    planning,
    pretraining,
    probing,
)
from experiments.compare_objectives_data import motions, places, write_labelled_clips
from experiments.compare_objectives_rows import beside, read_answers, table, write_untrained
from experiments.settings import compose_settings
from experiments.stages import Stage
from experiments.step_cost import measure_cost
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.videos import open_video
from worldmodel.models.pretrained import load_encoder
from worldmodel.objectives.lineage import SYSTEMS
from worldmodel.report.objectives_picture import objectives_picture
from worldmodel.report.theme import DARK

TINY = [
    "episodes=6", "held_out=24", "clips=4", "steps=2",
    'encoder_settings=["encoder=tiny","encoder.frames=4","encoder.depth=1"]',
    'pretrain_settings=["loop.batch_size=4"]',
    'train_settings=["episodes=3","method=lewm_cpu","window=5","loop.steps=2"]',
    'plan_settings=["tasks=1","planner.samples=4","planner.elites=2","planner.iterations=1"]',
    'probe_settings=["probe=quick","probe.linear.lrs=[0.01]","probe.linear.weight_decays=[0.1]","probe.linear.min_steps=2"]',
]  # fmt: skip


def start(out: Path, *more: str) -> int:
    return main(["compare_objectives", "systems=[simsiam,vjepa]", "plan=[vjepa]", *TINY, f"out={out}", *more])


def test_row_by_row_or_at_once_it_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row first, then the rest: what is there is not made again, and rows differ by their objective alone."""
    monkeypatch.setattr(step_cost, "_MORE", 3)
    out = tmp_path / "rows"
    assert start(out, "rows=[simsiam]") == 0
    first = json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in first["rows"]] == ["untrained", "simsiam"], "the control is always there"
    assert not (out / "vjepa").exists()
    weights = out / "simsiam/pretrain/model/encoder.safetensors"
    before = weights.stat().st_mtime_ns
    assert start(out, '+variants.narrow=["objective=vjepa", "predictor.width=24"]') == 0
    assert weights.stat().st_mtime_ns == before
    summary = json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in summary["rows"]] == ["untrained", "simsiam", "vjepa", "narrow"]
    assert summary["rows"][1] == first["rows"][1]
    assert "plan" in summary["rows"][2] and "plan" not in summary["rows"][1]
    for row in summary["rows"][1:]:
        assert row["peak_mib"] is None or row["peak_mib"] > 0
        assert np.isfinite(
            [row["processor_ms"], row["alignment"], row["uniformity"], row["token_rank"]]
        ).all()
        assert set(row["probes"]["motion"]) == {"knn", "linear"}
    learned, planned = (
        out / f"vjepa/{place}.safetensors"
        for place in ("pretrain/model/target_encoder", "train/model/encoder")
    )
    assert learned.read_bytes() == planned.read_bytes(), "planned with as it was learned"
    control = summary["rows"][0]
    assert all(score["beside_untrained"]["difference"] == 0 for score in control["probes"]["place"].values())
    configs = [json.loads((out / name / "pretrain/config.json").read_text()) for name in ("simsiam", "vjepa")]
    same = [
        {key: value for key, value in config.items() if key not in ("objective", "mask", "out")}
        for config in configs
    ]
    assert same[0] == same[1], "the same data, encoder, steps and seed"
    printed = capsys.readouterr().out
    assert "narrow" in printed and "above the untrained encoder" in printed
    assert (out / "objectives.png").read_bytes().startswith(b"\x89PNG")


def test_untrained_is_what_all_rows_begin_with(tmp_path: Path) -> None:
    """The control has the weights that a row's training begins with, whatever its objective."""
    overrides = ["env=worldmodel/TwoRoom-v0", "episodes=3", "steps=10", "workers=0", f"out={tmp_path}/video"]
    Stage("video", "", "collect", overrides).run()
    config = Config(out=str(tmp_path), episodes=2, held_out=2, clips=1)
    write_untrained(pretraining(config, "vjepa"), tmp_path / "untrained")
    control = load_encoder(tmp_path / "untrained").state_dict()
    for name in ("simsiam", "moco"):
        stage = pretraining(config, name)
        settings = compose_settings("pretrain", pretrain.Config, stage.overrides, schemas=pretrain.SCHEMAS)
        begun = pretrain.build(settings.to_object()).parts()["encoder"].state_dict()
        assert all(torch.equal(control[key], begun[key]) for key in control), name


def test_every_system_is_a_row_and_those_that_need_one_have_a_teacher() -> None:
    config = Config()
    assert config.systems == [row.name for row in SYSTEMS if row.option]
    for name in config.systems:
        stage = pretraining(config, name)
        assert f"objective={name}" in stage.overrides and f"loop.steps={config.steps}" in stage.overrides
    for name, (key, row) in BEGINS_WITH.items():
        assert f"{key}={config.out}/{row}/pretrain/model" in pretraining(config, name).overrides


def test_every_ablation_can_be_composed(tmp_path: Path) -> None:
    """Each names settings that its command knows; so do the stages after it."""
    config: Config = compose_settings(
        "compare_objectives", Config, ["comparison=ablations", f"out={tmp_path}"]
    ).to_object()
    names = list(config.settings)[1:]
    assert config.systems == [] and len(names) > 5
    for stage in (
        *(pretraining(config, name) for name in names),
        *probing(config, names[0]),
        *planning(config, names[0]),
    ):
        module = importlib.import_module(f"experiments.{stage.job}")
        schemas = getattr(module, "SCHEMAS", None)
        compose_settings(stage.job, module.Config, stage.overrides, schemas=schemas).to_object()


def test_data_of_ones_own_are_not_collected() -> None:
    config = Config(data="videos", labels={"action": "labels.csv"}, plan=["vjepa"])
    stage = pretraining(config, "vjepa")
    assert "data=videos" in stage.overrides and not any("held_out" in text for text in stage.overrides)
    assert labels_of(config) == {"action": "labels.csv"} and config.plan == []
    assert not any(text.startswith("views") for text in next(probing(config, "vjepa")).overrides)


def test_labels_of_held_out_clips(tmp_path: Path) -> None:
    """The last episodes' clips alone, each episode on one side of the split; the label is what the file shows."""
    data = tmp_path / "data"
    Stage(
        "data",
        "",
        "collect",
        ["env=worldmodel/TwoRoom-v0", "episodes=9", "steps=12", "workers=0", f"out={data}"],
    ).run()
    write_labelled_clips(tmp_path / "labelled", data, held_out=4, count=3, length=7, seed=0)
    with open(tmp_path / "labelled/motion.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["group"] for line in lines] == [str(5 + i // 3) for i in range(12)]
    assert [line["split"] for line in lines] == ["train"] * 6 + ["test"] * 6
    store = EpisodeStore(data)
    for line in lines[::5]:
        episode, begin = map(int, Path(line["path"]).stem.split("_"))
        with open_video(str(tmp_path / "labelled" / line["path"])) as video:
            shown = video.frames(list(range(7)))
        wanted = np.asarray(store[episode]["frames"][begin : begin + 7])
        assert np.abs(np.asarray(shown).reshape(wanted.shape).astype(int) - wanted).mean() < 8
    before = (tmp_path / "labelled/place.csv").stat().st_mtime_ns
    write_labelled_clips(tmp_path / "labelled", data, held_out=4, count=3, length=7, seed=0)
    assert (tmp_path / "labelled/place.csv").stat().st_mtime_ns == before, "written once"


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """Fewer held-out episodes would put labelled clips into the training; other rows may always come."""
    check_shared(Config(out=str(tmp_path)), tmp_path)
    check_shared(Config(out=str(tmp_path), systems=["vjepa"], rows=["vjepa"], plan=[]), tmp_path)
    for changes, message in (
        ({"episodes": 950, "held_out": 50}, "rows with episodes=900, not 950"),
        ({"probe_settings": ["probe=quick"]}, "rows with probe_settings="),
    ):
        with pytest.raises(ValueError, match=message):
            check_shared(Config(out=str(tmp_path), **changes), tmp_path)


def test_a_row_is_finished_when_all_labels_are_probed(tmp_path: Path) -> None:
    """A label that is added later is still to be probed where rows were made without it."""
    first = Config(data="videos", labels={"action": "action.csv"})
    (tmp_path / "vjepa/probe_action").mkdir(parents=True)
    (tmp_path / "vjepa/measures.json").write_text("{}")
    assert not is_finished(first, tmp_path, "vjepa")
    (tmp_path / "vjepa/probe_action/done.json").write_text("{}")
    assert is_finished(first, tmp_path, "vjepa")
    assert not is_finished(
        Config(data="videos", labels={"action": "a.csv", "place": "b.csv"}), tmp_path, "vjepa"
    )


def test_fewer_systems_need_no_other_plan() -> None:
    """The default of plan names rows that a shorter list of systems has not."""
    assert list(Config(systems=["simsiam"]).settings) == ["untrained", "simsiam"]


def test_full_needs_data() -> None:
    """Its size is for videos: without any, it does not collect a small world."""
    with pytest.raises(ValueError, match="go together"):
        compose_settings("compare_objectives", Config, ["comparison=full"]).to_object()


def test_places_and_motions() -> None:
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2).astype(float)
    names = places(grid)
    assert (
        {names.count(name) for name in names} == {4}
        and names[0] == "column 0 row 0"
        and names[-1] == "column 2 row 2"
    )
    tracks = np.zeros((4, 3, 2))
    tracks[:, -1] = [[-2, 1], [2, 1], [1, -2], [1, 2]]
    assert motions(tracks) == ["left", "right", "up", "down"]


def test_beside_the_untrained_encoder() -> None:
    """Above only where the paired interval is above zero; the same answers are the same."""
    clips = np.arange(200)
    groups, good, bad = (clips // 4).astype(str), clips % 10 > 0, clips % 2 > 0
    assert beside(good, bad, groups)["verdict"] == "above" and beside(bad, good, groups)["verdict"] == "below"
    assert beside(good, good, groups)["verdict"] == "as"


def test_parts_of_one_file_are_answers_each(tmp_path: Path) -> None:
    """A list may have several parts of a file, by start and end; all have its name."""
    lines = ["name,label,knn", "a.mp4,left,left", "a.mp4,right,left", "b.mp4,left,left"]
    (tmp_path / "predictions.csv").write_text("\n".join(lines))
    names, answers = read_answers(tmp_path)
    assert names == ["a.mp4", "a.mp4", "b.mp4"] and answers["knn"].tolist() == [True, False, True]


def test_table_and_picture_of_rows_that_lack_things() -> None:
    def score(accuracy: float, verdict: str) -> dict[str, Any]:
        around = {"difference": 0.0, "interval": [-0.1, 0.1], "verdict": verdict}
        return {
            "accuracy": accuracy,
            "interval": [accuracy - 0.05, accuracy + 0.05],
            "beside_untrained": around,
        }

    def row(name: str, verdict: str, **more: Any) -> dict[str, Any]:
        measures = {"token_rank": 20.0, "clip_rank": 10.0, "alignment": 0.2, "uniformity": -0.5}
        found = {"name": name, "probes": {"place": {"linear": score(0.4, verdict)}}, **measures}
        return found | {"processor_ms": None, "peak_mib": None} | more

    rows = [
        row("untrained", "as"),
        row("vjepa", "above", processor_ms=80.0, peak_mib=120.0),
        row("byol", "below"),
    ]
    text = table(rows, ["place"]).splitlines()
    assert "40+" in text[3] and "80" in text[3] and "40-" in text[4] and "40 " in text[2]
    assert objectives_picture(rows, ["place"], DARK).startswith(b"\x89PNG")
    rows[1]["plan"] = {"successes": 3, "episodes": 4, "interval": [0.3, 0.95]}
    assert "3/4" in table(rows, ["place"]) and objectives_picture(rows, ["place"], DARK).startswith(
        b"\x89PNG"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": ["nonsense"]}, "systems has no nonsense"),
        ({"variants": {"vjepa": ["objective=vjepa"]}}, "are rows already"),
        ({"variants": {"video": ["objective=vjepa"]}}, "are folders"),
        ({"data": "videos"}, "data=... and "),
        ({"plan": ["nothing"]}, "plan="),
        ({"rows": ["nothing"]}, "matches no row"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_mistaken_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_cost_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 ms that take 64 MiB are seen to cost about as much, whatever comes before the first."""
    ran = []

    def train(config: pretrain.Config) -> None:
        ran.append(config.loop.steps)
        until = time.process_time() + 0.3 + 0.01 * config.loop.steps
        held = np.ones(64 * 2**20, dtype=np.uint8)
        while time.process_time() < until:
            held[0] = 1

    monkeypatch.setattr(pretrain, "run", train)
    stage = Stage("row/pretrain", "", "pretrain", ["data=videos", "loop.steps=300", "out=somewhere"])
    measure_cost(stage, tmp_path / "cost.json")
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert 8 < cost["processor_ms"] < 14
    assert cost["peak_mib"] is None or 60 < cost["peak_mib"] < 200
    measure_cost(stage, tmp_path / "cost.json")
    assert len(ran) == 4 and 300 not in ran
