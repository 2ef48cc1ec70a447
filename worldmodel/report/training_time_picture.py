"""Picture of success over training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.report.theme import Theme, drawing, new_figure, to_png

BLUE = "#0072b2"


def training_time_picture(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """Goals reached after trainings of several lengths, with 95% intervals; a line per seed.

    Args:
        rows: ``seed``, ``minutes`` of training, ``successes``, ``episodes`` and ``interval`` of each training.
        theme: Its colours.
    """
    with drawing(theme):
        figure = new_figure(460, 300)
        axes = figure.subplots()
        for seed in sorted({row["seed"] for row in rows}):
            mine = sorted((row for row in rows if row["seed"] == seed), key=lambda row: row["minutes"])
            minutes = [row["minutes"] for row in mine]
            rate = [100 * row["successes"] / row["episodes"] for row in mine]
            low, high = ([100 * row["interval"][end] for row in mine] for end in (0, 1))
            axes.vlines(minutes, low, high, color=BLUE, linewidth=1, alpha=0.6)
            axes.plot(minutes, rate, color=BLUE, marker="o", markersize=4)
        axes.set_xlabel("minutes of training")
        axes.set_ylabel("goals reached (%)")
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        return to_png(figure)
