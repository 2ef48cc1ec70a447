"""The label-efficiency experiment, tiny: its rows, who saw what, its table and picture, and that it continues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import label_efficiency
from experiments.cli import main
from experiments.label_efficiency import Config, Row, rows_of, stages
from experiments.label_probes import Labelled, few_label_r2, labelled_frames, visible_targets
from experiments.label_summary import comparisons_of, mean_r2, table
from worldmodel.data.episodes import EpisodeStore
from worldmodel.models.files import read_config
from worldmodel.report.label_picture import label_picture
from worldmodel.report.theme import DARK, LIGHT

NOISE = "worldmodel/TwoRoom-Noise-v0"
TINY = [
    f"worlds=[{NOISE}]", "labels=[3]", "episodes=6", "held_out=2", "tasks=1", "probe_frames=20", "pretrain_steps=2",
    "frozen_steps=2", "pixel_steps=2", 'collect=["steps=10","workers=0"]', 'pretrain=["loop.batch_size=4"]',
    'train=["method=lewm_cpu","window=5","loop.batch_size=4"]',
    'plan=["planner.samples=4","planner.elites=2","planner.iterations=1"]',
]  # fmt: skip


def start(out: Path, *more: str) -> int:
    return main(["label_efficiency", *TINY, f"out={out}", *more])


def test_row_by_row_or_at_once_it_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row first, then the rest: what is there is not made again, and every row saw what its method says."""
    out = tmp_path / "rows"
    assert start(out, 'rows=["*/end_to_end_3"]') == 0
    first = json.loads((out / "summary.json").read_text())
    assert [row["method"] for row in first["rows"]] == ["end_to_end"] and first["comparisons"] == []
    assert not (out / "TwoRoom-Noise-v0/seed_0/pretrain").exists(), "nothing that this row does not need"

    weights = out / "TwoRoom-Noise-v0/seed_0/end_to_end_3/train/model/encoder.safetensors"
    before = weights.stat().st_mtime_ns
    assert start(out) == 0
    printed = capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    summary = json.loads((out / "summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == ["vjepa", "vjepa_tuned", "untrained", "end_to_end"]
    assert [(pair["a"], pair["b"]) for pair in summary["comparisons"]][:2] == [
        ("vjepa", "untrained"),
        ("vjepa", "end_to_end"),
    ]
    assert "V-JEPA, fine-tuned" in printed and "random actions" in printed and "pixels" in printed
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")

    place = out / "TwoRoom-Noise-v0/seed_0"
    encoders = {name: (place / f"{name}_3/train/model/encoder.safetensors").read_bytes() for name in
                ("vjepa", "vjepa_tuned", "untrained", "end_to_end")}  # fmt: skip
    assert encoders["vjepa"] == (place / "pretrain/model/target_encoder.safetensors").read_bytes(), (
        "is frozen"
    )
    assert len(set(encoders.values())) == 4
    suites, data = set(), EpisodeStore(place / "video").hash
    for name in encoders:
        model = read_config(place / f"{name}_3/train/model", "world_model")
        assert model["facts"]["episodes"] == 3 and model["facts"]["data"] == data
        assert round(model["facts"]["held_out"] * 8) == 2
        suites.add(json.loads((place / f"{name}_3/plan/results.json").read_text())["suite"])
    assert len(suites) == 1 and read_config(place / "pretrain/model", "video_encoder")["data"] == data
    probes = [json.loads((place / f"{name}_3/probe.json").read_text()) for name in encoders]
    assert len({probe["pixels"]["r2"] for probe in probes}) == 1, "all are probed with the same frames"


def compose(stage: Any) -> Any:
    import importlib

    from experiments.settings import compose_settings

    module = importlib.import_module(f"experiments.{stage.job}")
    schemas = getattr(module, "SCHEMAS", None)
    return compose_settings(stage.job, module.Config, stage.overrides, schemas=schemas).to_object()


def test_every_command_composes_and_rows_differ_in_what_they_should() -> None:
    config = Config(
        methods=["vjepa", "vjepa_tuned", "untrained", "end_to_end", "transfer"], transfer_from=NOISE
    )
    clean = [row for row in rows_of(config) if row.world == "worldmodel/TwoRoom-v0" and row.labels == 10]
    found = {}
    for row in clean:
        train = compose(stages(config, row)[-2])
        assert train.episodes == 10 and train.held_out == pytest.approx(50 / 1050)
        assert (train.window, train.dynamics.context) == (5, 2)
        found[row.method] = (
            train.variant,
            Path(train.encoder_from).parts[2:],
            train.loop.steps,
            train.loop.lr,
        )
    here, there = (
        ("TwoRoom-v0", "seed_0", "pretrain", "model"),
        ("TwoRoom-Noise-v0", "seed_0", "pretrain", "model"),
    )
    assert found == {
        "vjepa": ("frozen", here, 1200, 1e-3),
        "vjepa_tuned": ("end_to_end", here, 400, 3e-4),
        "untrained": ("untrained", (), 1200, 1e-3),
        "end_to_end": ("end_to_end", (), 400, 1e-3),
        "transfer": ("frozen", there, 1200, 1e-3),
    }
    video, recipe, _, plan = map(compose, stages(config, clean[0]))
    assert video.episodes == 1050 and plan.tasks == 100
    assert recipe.held_out == train.held_out and recipe.loop.steps == config.pretrain_steps
    typed = stages(replace(config, pretrain=["objective.target_norm=centred", "loop.steps=7"]), clean[0])[1]
    assert (compose(typed).objective.target_norm, compose(typed).loop.steps) == ("centred", 7), (
        "what is typed wins"
    )


def test_an_encoder_from_elsewhere_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    config = Config(methods=["transfer"], transfer_from=str(tmp_path))
    commands = stages(config, Row(NOISE, 0, "transfer", 10))
    assert [stage.job for stage in commands] == ["collect", "train", "plan"]
    assert f"encoder_from={tmp_path}" in commands[1].overrides


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("methods=[vjepa,magic]", "methods has no magic; choose from vjepa"),
        ("methods=[transfer]", "needs transfer_from"),
        ("transfer_from=runs/none", "and nothing else does"),
        ("labels=[7]", "from 1 to episodes=6"),
        ("labels=[]", "need one entry at least"),
        ("rows=[nothing]", "matches no row; the rows are TwoRoom-Noise-v0/seed_0/vjepa_3, "),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path / "run", change) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0] and not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="neither a model directory"):
        Config(methods=["transfer"], transfer_from="runs/none")


def labelled(x: np.ndarray, targets: np.ndarray) -> Labelled:
    return Labelled(np.zeros((len(x), 1)), targets, np.arange(len(x)) // 4)


def test_a_probe_reads_what_is_linear_and_nothing_else() -> None:
    """More features than frames, as it is with few labels."""
    rng = np.random.default_rng(0)
    x, test_x = rng.normal(size=(200, 20)), rng.normal(size=(400, 20))
    weight = rng.normal(size=(20, 2)) * [1.0, 100.0]  # whatever the units
    train, test = labelled(x, x @ weight), labelled(test_x, test_x @ weight)
    seen = few_label_r2(torch.tensor(x).float(), train, torch.tensor(test_x).float(), test)
    assert seen["r2"] > 0.99 and seen["interval"][0] <= seen["r2"] <= seen["interval"][1]
    blind, test_blind = (torch.tensor(rng.normal(size=(n, 300))).float() for n in (200, 400))
    assert few_label_r2(blind, train, test_blind, test)["r2"] < 0.1
    one = labelled(x, np.stack([x @ weight[:, 0], rng.normal(size=200)], axis=1))
    test_one = labelled(test_x, np.stack([test_x @ weight[:, 0], rng.normal(size=400)], axis=1))
    half = few_label_r2(torch.tensor(x).float(), one, torch.tensor(test_x).float(), test_one)
    assert 0.3 < half["r2"] < 0.6, "the mean over targets"


def test_labelled_frames_are_places_without_velocities_or_looks(tmp_path: Path) -> None:
    more = [f"env={NOISE}", "episodes=4", "steps=6", "workers=0", f"out={tmp_path}"]
    assert main(["collect", *more]) == 0
    store = EpisodeStore(tmp_path)
    names, columns = visible_targets(store, range(3))
    assert len(names) == 2 and not any("velocity" in name for name in names)
    found = labelled_frames(store, range(1, 4), 8, columns, window=2)
    assert found.clips.shape == (8, 2, 3, 64, 64) and set(found.episodes) <= {0, 1, 2}
    for clip, target, owner in zip(found.clips, found.targets, found.episodes, strict=True):
        frames, states = (store[1 + owner][name][:] for name in ("frames", "states"))
        step = next(t for t in range(7) if np.array_equal(frames[t], clip[-1]))
        assert np.array_equal(clip[0], frames[max(0, step - 1)])
        np.testing.assert_array_equal(target, states[step, 1:3])
    again = labelled_frames(store, range(1, 4), 100, columns)
    assert len(again.clips) == 21 and not np.shares_memory(again.clips, found.clips)


def row(method: str, solved: int, labels: int = 10, world: str = NOISE, r2: float = 0.5) -> dict[str, Any]:
    score = {"r2": r2, "interval": [r2 - 0.1, r2 + 0.1]}
    tasks = [{"id": f"0/{i}", "success": i < solved} for i in range(100)]
    return {
        "world": world, "method": method, "labels": labels, "seeds": [0], "suite": "s", "run": method,
        "successes": solved, "episodes": 100, "interval": [solved / 110, (solved + 10) / 110], "encoder": score,
        "latent": score, "seconds": {"train": 1.0, "plan": 2.0}, "tasks": tasks,
    }  # fmt: skip


def test_it_says_beats_only_beyond_the_interval() -> None:
    rows = [row("vjepa", 40), row("untrained", 20), row("end_to_end", 42), row("vjepa_tuned", 10)]
    found = {
        (pair["a"], pair["b"]): pair for pair in comparisons_of([*rows, row("untrained", 90, labels=20)])
    }
    assert (
        found["vjepa", "untrained"]["verdict"] == "beats" and found["vjepa", "untrained"]["difference"] == 0.2
    )
    assert found["vjepa", "end_to_end"]["verdict"] == "does not beat"
    assert found["vjepa_tuned", "end_to_end"]["verdict"] == "is beaten by"
    assert all(pair["labels"] == 10 for pair in found.values()), "one row alone is not compared"
    controls = {"pixels": {"r2": 0.4}, "random": {"successes": 3, "episodes": 100, "interval": [0.01, 0.08]}}
    said = table({"rows": rows, "worlds": {NOISE: controls}, "comparisons": list(found.values())})
    assert "10 episodes: V-JEPA, frozen beats untrained, frozen: +20 points" in said and "40/100" in said
    with pytest.raises(ValueError, match="same tasks"):
        comparisons_of([row("vjepa", 40), {**row("untrained", 20), "suite": "other"}])


def test_several_seeds_give_their_mean_and_range() -> None:
    scores = [{"r2": value, "interval": [0.0, 1.0]} for value in (0.2, 0.6)]
    assert mean_r2(scores) == {"r2": pytest.approx(0.4), "interval": [0.2, 0.6]}
    assert mean_r2(scores[:1]) == {"r2": 0.2, "interval": [0.0, 1.0]}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_picture_takes_any_number_of_worlds_rows_and_seeds(theme: Any) -> None:
    controls = {NOISE: {"pixels": {"r2": 0.4}}}
    assert label_picture([row("vjepa", 40)], controls, theme).startswith(b"\x89PNG")
    rows = [row(m, 20 * i, n, w, -1.0) for w in ("a", "b") for n in (1, 1000) for i, m in
            enumerate(label_efficiency.METHODS)]  # fmt: skip
    both = {w: {**controls[NOISE], "random": row("x", 3)} for w in ("a", "b")}
    assert label_picture(rows, both, theme).startswith(b"\x89PNG")


def test_every_list_of_settings_can_be_typed() -> None:
    """A field called `encoder` could not: Hydra took it for the group of that name."""
    from experiments.settings import compose_settings

    typed = ["collect", "pretrain", "train", "plan", "encoder_settings"]
    config = compose_settings(
        "label_efficiency", Config, [f'{name}=["seed=1"]' for name in typed]
    ).to_object()
    assert all(getattr(config, name) == ["seed=1"] for name in typed)
