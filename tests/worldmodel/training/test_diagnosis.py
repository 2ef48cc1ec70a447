"""Warnings about runs that are made to go wrong, and none about healthy ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel.squares import small_objective, train
from worldmodel.masks import MaskConfig
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.masked_latent import MaskedLatentConfig
from worldmodel.training.diagnosis import Watch, diagnose
from worldmodel.training.loop import LoopConfig, fit
from worldmodel.training.run import Run

VJEPA = {
    "short": MaskConfig(kind="blocks", blocks=4),
    "long": MaskConfig(kind="blocks", blocks=1, scale_min=0.6, scale_max=0.6),
}
TUBE = {"tube": MaskConfig()}


@pytest.mark.parametrize(
    ("config", "masks"),
    [
        (MaskedLatentConfig(), VJEPA),
        (MaskedLatentConfig(target_norm="centred", loss="l2"), TUBE),
    ],
)
def test_healthy_runs_give_no_warning_at_any_time(config: MaskedLatentConfig, masks: dict) -> None:
    rows = train(small_objective(config), masks, steps=100)
    watch = Watch()
    assert [text for row in rows for text in watch.see(row)] == []


def test_a_collapse_to_a_point_is_seen() -> None:
    """Gradients that flow through the targets too are the shortest way to collapse."""
    config = MaskedLatentConfig(target_encoder="online", target_gradient=True, target_norm="none", loss="l2")
    rows = train(small_objective(config), TUBE, steps=80, lr=3e-3)
    # The loss alone looks splendid.
    assert rows[-1]["loss"] < 0.01 * rows[0]["loss"]
    text = " ".join(diagnose(rows))
    assert "features are collapsing: token_std fell from" in text
    assert "loop.lr" in text and "objective.target_norm=none" in text


def test_a_collapse_of_dimensions_is_seen() -> None:
    """Centred targets keep their size, so that only the rank falls."""
    config = MaskedLatentConfig(target_encoder="online", target_gradient=True, target_norm="centred")
    rows = train(small_objective(config), TUBE, steps=100)
    assert "features use few directions: token_rank fell from" in " ".join(diagnose(rows))


def test_a_much_too_high_learning_rate_is_seen() -> None:
    rows = train(small_objective(MaskedLatentConfig()), VJEPA, steps=60, lr=0.1)
    text = " ".join(diagnose(rows))
    # How it breaks is chaos: dead gradients on one processor, few directions on another. The advice is the same.
    assert "lower loop.lr" in text


def test_a_target_that_does_not_follow_is_seen() -> None:
    rows = train(small_objective(MaskedLatentConfig(ema_start=1.0, ema_end=1.0)), TUBE, steps=100)
    assert "the target encoder does not follow" in " ".join(diagnose(rows))


def history(**changes: float) -> list[dict[str, Any]]:
    """A healthy run, with changes to the last five rows."""
    first = {
        "loss": 0.82, "lr": 2e-5, "predict_mean_loss": 0.55, "position_mean_loss": 0.5, "token_std": 0.67,
        "token_rank": 26.0, "clip_rank": 23.0, "grad_norm": 0.4, "grad_norm_encoder": 0.05,
        "grad_norm_predictor": 0.4, "ema_output_gap": 0.5,
    }  # fmt: skip
    last = first | {
        "loss": 0.012, "lr": 1e-5, "predict_mean_loss": 0.21, "position_mean_loss": 0.1, "token_std": 0.25,
        "token_rank": 10.0, "clip_rank": 16.0, "grad_norm": 0.07,
    }  # fmt: skip
    rows = [{"step": step, **(first if step == 0 else last)} for step in range(30)]
    return [*rows[:-5], *(row | changes for row in rows[-5:])]


def test_figures_of_the_demo_give_no_warning() -> None:
    """Measured on TwoRoom, where little moves: the encoder's gradient is small, and positions are most of a target."""
    names = (
        "step",
        "loss",
        "token_std",
        "token_rank",
        "clip_rank",
        "predict_mean_loss",
        "position_mean_loss",
    )
    names += ("ema_output_gap", "grad_norm", "grad_norm_encoder", "grad_norm_predictor", "lr")
    measured = [
        (0, 0.82, 0.668, 25.8, 22.8, 0.553, 0.0353, 0.082, 0.419, 1.5e-3, 0.419, 5e-5),
        (40, 0.289, 0.278, 24.2, 21.8, 0.225, 0.015, 1.41, 0.372, 2.7e-5, 0.372, 9.9e-4),
        (80, 0.181, 0.271, 15.0, 20.4, 0.221, 0.0093, 1.21, 0.210, 1.2e-3, 0.210, 9.4e-4),
        (120, 0.114, 0.257, 12.8, 19.5, 0.211, 0.0077, 0.80, 0.173, 3.5e-4, 0.173, 8.4e-4),
        (160, 0.061, 0.274, 10.9, 18.0, 0.227, 0.0072, 0.74, 1.860, 4.1e-3, 1.860, 7.0e-4),
        (240, 0.024, 0.277, 9.8, 16.5, 0.232, 0.0067, 0.32, 0.183, 4.9e-4, 0.183, 3.8e-4),
        (399, 0.021, 0.271, 9.7, 15.4, 0.227, 0.0067, 0.22, 0.068, 1.1e-4, 0.068, 1e-5),
    ]
    # With centred targets, features let the position go: less spread, but more directions.
    centred = [
        (0, 0.453, 0.668, 25.8, 22.8, 0.352, 0.363, 0.082, 0.319, 1.5e-3, 0.319, 5e-5),
        (80, 0.310, 0.179, 21.8, 22.4, 0.335, 0.345, 2.25, 0.111, 7.5e-5, 0.111, 9.4e-4),
        (160, 0.301, 0.150, 17.3, 20.3, 0.336, 0.347, 0.87, 0.111, 8.6e-5, 0.111, 7.0e-4),
        (240, 0.323, 0.138, 16.5, 19.9, 0.338, 0.349, 0.48, 0.100, 1.1e-4, 0.100, 3.8e-4),
        (399, 0.330, 0.136, 15.7, 20.3, 0.346, 0.357, 0.33, 0.079, 2.1e-5, 0.079, 1e-5),
    ]
    watch = Watch()
    assert [text for row in centred for text in watch.see(dict(zip(names, row, strict=True)))] == []
    watch = Watch()
    assert [text for row in measured for text in watch.see(dict(zip(names, row, strict=True)))] == []
    assert diagnose(history()) == []
    assert diagnose(history(token_std=0.01)[-3:]) == []  # too early to say anything


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"token_std": 0.1}, "token_std fell from 0.67 to 0.1"),
        ({"token_rank": 4.0}, "token_rank fell from 26 to 4"),
        ({"clip_rank": 1.1}, "features tell positions, but hardly one clip from another"),
        (
            {"loss": 0.1},
            "no better than each position's mean: loss 0.1, saying the mean of other clips there gives 0.1",
        ),
        ({"loss": 0.3, "position_mean_loss": 0.5}, "loss 0.3, always saying the mean gives 0.21"),
        ({"ema_output_gap": 1.2}, "differ from the student's by 1.2"),
        ({"grad_norm_encoder": 1e-5}, "grad_norm_encoder 1e-05"),
        ({"grad_norm": 2.0}, "grad_norm 2, usually 0.07"),
        ({"token_rank": float("nan")}, "not finite: token_rank"),
    ],
)
def test_each_warning_by_itself(changes: dict[str, float], text: str) -> None:
    found = diagnose(history(**changes))
    assert len(found) == 1
    assert found[0].startswith("step 29: ") and text in found[0]
    assert ". Try " in found[0]


def test_only_settings_that_the_objective_has_are_advised() -> None:
    """Of joint embedding without a moving average: no target_norm, no ema_start, no masks."""
    config: dict[str, Any] = {"objective": {"target": "online"}, "mask": {}}
    for changes in ({"token_std": 0.1}, {"token_rank": 4.0}, {"clip_rank": 1.1}, {"loss": 0.1}):
        (text,) = diagnose(history(**changes), config)
        assert ". Try " in text and "objective." not in text and "mask" not in text
        (text,) = diagnose(history(**changes), {"objective": {"target_norm": "layer", "ema_start": 0.99}})
        assert "objective." in text


def test_above_the_mean_is_normal_while_the_rate_rises_or_the_loss_comes_nearer() -> None:
    rows = history(loss=0.3)
    rows[-1]["lr"] = 2 * rows[-2]["lr"]
    assert diagnose(rows) == []
    rows = history(loss=0.3)
    rows[-5] = rows[-5] | {"loss": 0.4}
    assert diagnose(rows) == []


def test_one_odd_row_is_no_warning_for_what_varies() -> None:
    for changes in ({"loss": 0.3}, {"ema_output_gap": 1.5}, {"grad_norm": 5.0}, {"grad_norm_encoder": 0.0}):
        rows = history()
        rows[-1] = rows[-1] | changes
        assert diagnose(rows) == []


def test_a_watch_says_a_thing_once_and_again_when_it_comes_back() -> None:
    good, bad = history(), history(token_std=0.1)
    watch = Watch(good)
    assert watch.see({"step": 30, "loss": 0.01}) == []
    assert len(watch.see(bad[-1] | {"step": 31})) == 1
    assert watch.see(bad[-1] | {"step": 32}) == []
    assert watch.see(good[-1] | {"step": 33}) == []
    assert len(watch.see(bad[-1] | {"step": 34})) == 1
    # A resumed run does not repeat what was said before.
    assert Watch(bad).see(bad[-1] | {"step": 30}) == []


def test_the_loop_says_the_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Shrinking(Objective):
        """Features whose spread falls by half from step to step."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": self.scale.square()}

        def monitor(self, batch: Batch) -> dict[str, float]:
            return {"token_std": 0.5**batch.step, "token_rank": 5.0, "clip_rank": 5.0}

    config = LoopConfig(steps=6, batch_size=2, monitor_every=1, precision="fp32")
    run = Run(tmp_path, {})
    with caplog.at_level("WARNING"):
        fit(Shrinking(), lambda step: Batch(step, range(2), (torch.ones(2, 1),)), config, run, "shrinking")
    run.close()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text[:21] for text in said] == ["shrinking: step 3: fe"]


def ordering(values: list[float], name: str = "plannability_true") -> list[dict[str, Any]]:
    """A world model's run in which only plannability changes."""
    return [
        {"step": 100 * i, "loss": 0.1, "latent_rank": 30.0, name: value} for i, value in enumerate(values)
    ]


@pytest.mark.parametrize("name", ["plannability_true", "plannability_steps"])
def test_a_latent_that_unlearns_order_is_seen_and_said_once(name: str) -> None:
    # Measured on TwoRoom, with objective.sigreg=1.0: 3 of 50 goals reached.
    values = [0.697, 0.618, 0.607, 0.521, 0.507, 0.544, 0.517]
    rows, watch = ordering(values, name), Watch()
    said = [text for row in rows for text in watch.see(row)]
    assert len(said) == 1 and said[0].startswith("step 400: latent distance orders moments less well")
    assert f"({name}). Try a lower objective.sigreg" in said[0] and diagnose(rows)


@pytest.mark.parametrize(
    "values",
    [
        [0.697, 0.75, 0.82, 0.86, 0.88, 0.88],  # healthy
        [0.697, 0.5, 0.5, 0.5, 0.5, 0.6],  # comes back
        [0.697, 0.5, 0.5],  # too early to say
        [0.1, 0.0, 0.0, 0.0, 0.0],  # began with next to none
    ],
)
def test_order_that_rises_or_was_never_there_gives_no_warning(values: list[float]) -> None:
    assert diagnose(ordering(values)) == []
    assert diagnose([{**row, "loss": 0.2} for row in ordering(values, "unknown")]) == []


def test_figures_of_a_world_model_that_are_not_finite_are_named() -> None:
    rows = ordering([0.7, 0.8, 0.8, 0.8])
    rows[-1]["latent_rank"] = float("nan")
    assert "not finite: latent_rank" in " ".join(diagnose(rows))
