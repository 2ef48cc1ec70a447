"""Curves of a pretraining from ``metrics.jsonl``: whatever it logged is drawn, and nothing else is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.report.figures import Line, Rows, curves
from worldmodel.report.markup import Html, div
from worldmodel.report.parts import themed


@dataclass(frozen=True)
class Plot:
    """Which metrics share a plot.

    Attributes:
        title: Its heading.
        lines: ``(key, label, colour, dashed)``.
        unit: Of the vertical axis.
        log: Logarithmic vertical axis, where all values are above zero.
        smooth: Show a running mean over a faint line of the values themselves.
        zero: Whether the vertical axis begins at zero.
    """

    title: str
    lines: tuple[tuple[str, str, str, bool], ...]
    unit: str = ""
    log: bool = False
    smooth: bool = False
    zero: bool = True


PLOTS = (
    Plot(
        "Loss",
        (
            ("loss", "loss", "accent", False),
            ("predict_mean_loss", "predicting the mean", "muted", True),
            ("position_mean_loss", "predicting the mean at each position", "ink", True),
        ),
        smooth=True,
    ),
    Plot("Spread of features", (("token_std", "std of tokens", "accent", False),), "std"),
    Plot(
        "Effective rank",
        (("token_rank", "tokens", "accent", False), ("clip_rank", "clips", "ink", False)),
        "directions",
    ),
    Plot(
        "Student against EMA",
        (
            ("ema_weight_gap", "weights", "accent", False),
            ("ema_output_gap", "features", "ink", False),
        ),
        "relative distance",
    ),
    Plot("Gradient norm", (("grad_norm", "before clipping", "accent", False),), log=True, smooth=True),
    Plot("Learning rate", (("lr", "lr", "accent", False),)),
    Plot(
        "Weight decay",
        (("weight_decay", "weight decay", "accent", False),),
    ),
    Plot(
        "EMA momentum",
        (("ema", "momentum", "accent", False), ("momentum", "momentum", "accent", False)),
        zero=False,
    ),
    Plot("Throughput", (("clips_per_second", "clips/s", "accent", False),), "clips/s", smooth=True),
    Plot("Waiting for data", (("data_wait", "share of time", "accent", False),), "share"),
)
_LINE_COLORS = ("accent", "ink", "neutral", "muted")
_NOT_DRAWN = ("step", "samples", "seconds", "epoch")


def run_curves(rows: Rows) -> Html:
    """All metrics of a run: the known ones in the order of ``PLOTS``, then any other number that was logged."""
    known = {key for plot in PLOTS for key, *_ in plot.lines}
    plots = [*PLOTS, *_other_plots(rows, known)]
    return div("plots", *[drawn for plot in plots if (drawn := draw_plot(plot, rows)) is not None])


def _other_plots(rows: Rows, known: set[str]) -> list[Plot]:
    """Further keys, those that share all but their last word (``grad_norm_encoder``) in one plot."""
    keys = list(
        dict.fromkeys(key for row in rows for key in row if key not in known and key not in _NOT_DRAWN)
    )
    groups: dict[str, list[str]] = {}
    for key in keys:
        if points_of(rows, key)[0]:
            stem = key.rpartition("_")[0]
            groups.setdefault(
                stem if sum(k.startswith(stem + "_") for k in keys) > 1 and stem else key, []
            ).append(key)
    return [_other_plot(stem, group) for stem, group in groups.items()]


def _other_plot(stem: str, keys: list[str]) -> Plot:
    lines = [
        (
            key,
            key.removeprefix(stem + "_").replace("_", " "),
            _LINE_COLORS[i % len(_LINE_COLORS)],
            i >= len(_LINE_COLORS),
        )
        for i, key in enumerate(keys)
    ]
    title = stem.replace("_", " ")
    return Plot(
        title[:1].upper() + title[1:],
        tuple(lines),
        log="grad" in stem,
        smooth="loss" in stem or "grad" in stem,
    )


def points_of(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, without what is no finite number."""
    points = [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw_plot(plot: Plot, rows: Rows) -> Html | None:
    """One plot in both themes; None if none of its metrics was logged."""
    lines: list[Line] = []
    for key, label, color, dashed in plot.lines:
        x, y = points_of(rows, key)
        if x and plot.smooth and not dashed and len(x) > 30:
            lines += [Line("", x, y, "line"), Line(label, x, running_mean(y), color)]
        elif x:
            lines.append(Line(label, x, y, color, dashed))
    if not lines:
        return None
    log = plot.log and all(min(line.y) > 0 for line in lines)
    named = sum(bool(line.label) for line in lines) > 1
    return themed(
        lambda theme: curves(
            plot.title, lines, theme, y_label=plot.unit, log=log, legend=named, zero=plot.zero
        ),
        f"{plot.title} over training",
    )


def running_mean(values: Sequence[float], share: float = 0.04) -> list[float]:
    """A centred mean over ``share`` of the length; at the ends over what there is."""
    half = max(1, round(len(values) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: list[float] = ((sums[high] - sums[low]) / (high - low)).tolist()
    return means
