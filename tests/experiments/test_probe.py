"""The probe job from end to end, on small videos: nothing leaks from the test, the control is honest, runs resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments import probe
from experiments.cli import JOBS, main
from experiments.settings import compose_settings
from tests.worldmodel.evaluation.probe_data import write_labelled, write_model
from worldmodel.data.videos import open_video
from worldmodel.evaluation import probes as study_module
from worldmodel.evaluation import views as views_module
from worldmodel.evaluation.predict import Predictor

QUICK = [
    *(
        "device=cpu",
        "views.stride=2",
        "probe.attentive.depth=1",
        "probe.attentive.heads=2",
        "probe.linear.lrs=[0.01,0.1]",
    ),
    *(
        "probe.linear.min_steps=60",
        "probe.attentive_training.epochs=2",
        "probe.attentive_training.weight_decays=[0.1]",
    ),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled videos and a model; all tests share its feature cache."""
    folder = tmp_path_factory.mktemp("probe")
    write_labelled(folder)
    write_model(folder / "model")
    return folder


def config_of(data: Path, *overrides: str) -> Any:
    given = [
        f"model={data}/model",
        f"data={data}/labels.csv",
        f"features={data}/features",
        *QUICK,
        *overrides,
    ]
    return compose_settings("probe", probe.Config, given).to_object()


def test_colours_are_read_and_everything_is_written(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = config_of(data, f"out={out}", "probe=all", "control=true", "probe.shots=[2]", "probe.draws=2")
    results = probe.run(config)
    assert set(results["probes"]) == {"knn", "linear", "attentive"}
    linear = results["probes"]["linear"]
    assert linear["pretrained"]["accuracy"] == 1.0 and results["test"] == 4
    assert np.sum(linear["pretrained"]["confusion"]) == 4
    assert linear["pretrained"]["parameters"] == 24 * 2 + 2
    assert linear["pretrained"]["low_shot"]["2"]["draws"] and results["weights"] == "ema"
    assert not linear["comparison"]["better"]  # four samples prove nothing
    for name in (
        "results.json",
        "report.txt",
        "confusion-knn.png",
        "probes/pretrained-attentive/probe.safetensors",
    ):
        assert (out / name).is_file(), name
    text = probe.outcome(results)
    assert "does NOT clearly beat" in text and "2 per class" in text and "100.0%" in text
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["linear"] == row["label"] for row in rows)


def test_a_saved_probe_answers_for_a_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    probe.run(config_of(data, f"out={out}", "probe=all"))
    for kind in ("knn", "linear", "attentive"):
        predictor = Predictor(out / f"probes/pretrained-{kind}")
        with open(out / "predictions.csv", newline="") as file:
            for row in csv.DictReader(file):
                answer = predictor(data / row["name"])
                assert isinstance(answer, dict) and sum(answer.values()) == pytest.approx(1, abs=1e-5)
                assert next(iter(answer)) == row[kind]
    given = ["probe", f"probe_from={out}/probes/pretrained-linear", f"data={data}/videos", "device=cpu"]
    assert main(given, jobs={"probe": JOBS["probe"]}) == 0


@pytest.mark.parametrize(("task", "stride"), [("speed", 1), ("order", 2)])
def test_the_probe_of_a_task_looks_at_other_files_as_at_its_own(
    data: Path, tmp_path: Path, task: str, stride: int
) -> None:
    """Frames of a task are so many apart; a new video is not looked at by frames per second."""
    small = [
        "task_clips.windows=3",
        "task_clips.test_windows=2",
        "task_clips.gap=0",
        "task_clips.min_change=0",
    ]
    given = [
        f"task={task}",
        f"data={data}/videos",
        "task_clips.strides=[1,2]",
        "views=ssv2",
        "views.stride=0",
    ]
    probe.run(config_of(data, f"out={tmp_path}/run", *given, *small, "probe.kinds=[knn]"))
    predictor = Predictor(tmp_path / "run/probes/pretrained-knn")
    assert (predictor.shape.stride, predictor.views.segments) == (stride, 1)
    assert set(predictor(data / "videos/red 0.mp4")) == set(predictor.classes)  # type: ignore[arg-type]


def test_a_probe_refuses_an_encoder_that_has_changed(data: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    probe.run(config_of(data, f"out={tmp_path}/run", f"model={tmp_path}/model", "probe.kinds=[knn]"))
    write_model(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match="was fitted on other weights"):
        Predictor(tmp_path / "run/probes/pretrained-knn")
    Predictor(tmp_path / "run/probes/pretrained-knn", model=data / "model")  # the same weights, elsewhere


def poisoned(data: Path, target: Path) -> Path:
    """The same list with its splits written out, and the test's labels exchanged."""
    samples = probe.read_labelled(config_of(data), probe.open_encoder(data / "model", "ema"))
    swap = {"red": "blue", "blue": "red"}
    lines = ["path,label,split"]
    for row, sample in enumerate(samples.samples):
        test = row in samples.splits.test
        split = "test" if test else "val" if row in samples.splits.select else "train"
        lines.append(f"{sample.path},{swap[sample.label] if test else sample.label},{split}")
    target.write_text("\n".join(lines) + "\n")
    return target


def test_the_tests_labels_are_never_used(data: Path, tmp_path: Path) -> None:
    """With every label of the test wrong, the same probes are fitted, and they are wrong everywhere."""
    clean = probe.run(config_of(data, f"out={tmp_path}/clean"))
    bad = poisoned(data, tmp_path / "bad.csv")
    dirty = probe.run(config_of(data, f"out={tmp_path}/dirty", f"data={bad}"))
    for kind in ("knn", "linear"):
        ours, theirs = (results["probes"][kind]["pretrained"] for results in (clean, dirty))
        assert ours["chosen"] == theirs["chosen"] and ours["trials"] == theirs["trials"] and ours["trials"]
        assert theirs["accuracy"] == pytest.approx(1 - ours["accuracy"])
        files = (tmp_path / run / f"probes/pretrained-{kind}/probe.safetensors" for run in ("clean", "dirty"))
        first, second = map(load_file, files)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, fit = tmp_path / "run", study_module.fit_linear
    config = config_of(data, f"out={out}")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "fit_linear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe.run(config)
    assert [file.stem for file in (out / "stages").iterdir()] == ["pretrained-knn"]
    monkeypatch.setattr(study_module, "fit_linear", fit)
    monkeypatch.setattr(study_module, "fit_knn", interrupted)  # it is not fitted again
    assert set(probe.run(config)["probes"]) == {"knn", "linear"}
    assert probe.run(config) == probe.run(config)


def test_student_and_ema_are_told_apart(data: Path, tmp_path: Path) -> None:
    results = [
        probe.run(config_of(data, f"out={tmp_path}/{name}", f"weights={name}", "probe.kinds=[linear]"))
        for name in ("ema", "student")
    ]
    assert [result["weights"] for result in results] == ["ema", "student"]
    losses = {result["probes"]["linear"]["pretrained"]["log_loss"] for result in results}
    assert len(losses) == 2


def test_numbers_are_regressed(data: Path, tmp_path: Path) -> None:
    lines = (data / "labels.csv").read_text().replace(",red", ",1.5").replace(",blue", ",-0.5")
    path = data / "numbers.csv"
    path.write_text(lines)
    results = probe.run(
        config_of(data, f"out={tmp_path}/run", f"data={path}", "target=number", "control=true")
    )
    assert results["probes"]["ridge"]["pretrained"]["r2"] > 0.8
    assert "R^2" in probe.outcome(results)
    assert isinstance(Predictor(tmp_path / "run/probes/pretrained-ridge")(data / "videos/red 0.mp4"), float)


def test_fine_tuning_trains_the_encoder(data: Path, tmp_path: Path) -> None:
    given = ["probe=finetune", "probe.finetune.training.epochs=3", "probe.finetune.training.batch_size=8"]
    results = probe.run(config_of(data, f"out={tmp_path}/run", *given))
    assert results["probes"]["finetune"]["pretrained"]["items"] == 4
    tuned = load_file(tmp_path / "run/probes/pretrained-finetune/encoder.safetensors")
    before = load_file(data / "model/target_encoder.safetensors")
    moved = {name: float((tuned[name] - value).abs().max()) for name, value in before.items()}
    assert 0 < moved["patch_embed.weight"] < moved["blocks.1.norm2.weight"]  # earlier layers move less
    predictor = Predictor(tmp_path / "run/probes/pretrained-finetune")
    with open(tmp_path / "run/predictions.csv", newline="") as file:
        assert all(
            next(iter(predictor(data / row["name"]))) == row["finetune"] for row in csv.DictReader(file)
        )


def test_damaged_files_stop_the_run_or_are_counted(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    path = tmp_path / "labels.csv"
    lines = (data / "labels.csv").read_text().replace("videos/", f"{data}/videos/")
    path.write_text(lines + f"{tmp_path}/bad.mp4,red\n")
    with pytest.raises(ValueError, match=r"1 of 17 samples cannot be read .*bad\.mp4.* set unreadable=0\.06"):
        probe.run(config_of(data, f"out={tmp_path}/a", f"data={path}"))
    results = probe.run(config_of(data, f"out={tmp_path}/b", f"data={path}", "unreadable=0.1"))
    assert list(results["unreadable"]) == [f"{tmp_path}/bad.mp4"]
    assert results["test"] + results["train"] >= 16


def test_what_could_not_be_read_once_is_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network drive that was away for a minute (nothing about the file changes) is not remembered for ever."""
    away = {"red 1.mp4", "blue 2.mp4"}

    def open_or_fail(path: str) -> Any:
        if Path(path).name in away:
            raise OSError(f"{path}: stale file handle")
        return open_video(path)

    monkeypatch.setattr(views_module, "open_video", open_or_fail)
    given = [f"out={tmp_path}/run", f"features={tmp_path}/features", "control=true"]
    with pytest.raises(ValueError, match="2 of 16 samples cannot be read"):
        probe.run(config_of(data, *given))
    patient = config_of(data, *given, "unreadable=0.5", f"out={tmp_path}/patient")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study_module, "fit_linear", interrupted)
        probe.run(patient)
    away.clear()
    assert probe.run(config_of(data, *given))["test"] == 4
    results = probe.run(patient)  # its finished stage had answered without them
    assert results["unreadable"] == {}
    for found in results["probes"].values():
        assert found["pretrained"]["items"] == found["untrained"]["items"] == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=", "give model=MODEL_DIRECTORY data=LABELS.csv"),
        ("task=guess", "task='guess' is unknown; choose labels, speed, order, source"),
        ("probe.kinds=[svm]", "choose some of knn, linear, attentive, finetune"),
        ("views.crops=2", "must be 1"),
        ("probe.shots=[1.5]", "whole numbers per class"),
        ("probe.linear.lrs=[]", "must be positive"),
        ("test_share=0", "above 0, below 1"),
    ],
)
def test_settings_are_checked(
    data: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"model={data}/model", f"data={data}/labels.csv", override]
    assert main(["probe", *given], jobs={"probe": JOBS["probe"]}) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_results_are_json(data: Path, tmp_path: Path) -> None:
    probe.run(config_of(data, f"out={tmp_path}/run", "task=labels"))
    assert json.loads((tmp_path / "run/results.json").read_text())["encoder_parameters"] > 1000
