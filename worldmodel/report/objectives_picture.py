"""Picture of the comparison of objectives: a line for each row; probes, rank, time, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from worldmodel.report.theme import Theme, drawing, new_figure, to_png

_KINDS = {"knn": ("k-NN", "o"), "linear": ("linear", "s"), "attentive": ("attentive", "D")}
_COLOURS = {"knn": "#56b4e9", "linear": "#0072b2", "attentive": "#d55e00"}
_LINE, _FRAME = 21, 190


def objectives_picture(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], theme: Theme) -> bytes:
    """A panel of probes for each kind of label, then effective rank, time and, where it was planned, goals reached.

    Args:
        rows: See ``read_row`` of ``experiments.compare_objectives_rows``; the first is the untrained encoder.
        labels: What was probed.
        theme: Its colours.
    """
    planned = any("plan" in row for row in rows)
    panels = len(labels) + 2 + planned
    with drawing(theme):
        figure = new_figure(240 + 210 * panels, _FRAME + _LINE * len(rows))
        widths = [1.5] * len(labels) + [1.0] * (panels - len(labels))
        grid = figure.subplots(1, panels, sharey=True, width_ratios=widths, squeeze=False)[0]
        for axes, label in zip(grid, labels, strict=False):
            probes(axes, [row["probes"][label] for row in rows], theme)
            axes.set_title(f"Probes of {label}")
            axes.set_xlabel("accuracy, %")
        rank, cost = grid[len(labels)], grid[len(labels) + 1]
        bars(rank, [row["token_rank"] for row in rows], theme)
        rank.set_title("Rank of tokens")
        bars(cost, [row["processor_ms"] for row in rows], theme)
        cost.set_title("Time of a step")
        cost.set_xlabel("ms of the processor")
        if planned:
            goals(grid[-1], rows, theme)
        grid[0].set_yticks(range(len(rows)), [row["name"].replace("_", " ") for row in rows])
        grid[0].set_ylim(len(rows) - 0.4, -0.6)
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), labelcolor=theme.ink)
        return to_png(figure)


def probes(axes: Axes, scores: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """Accuracies with their intervals; filled where they are above the untrained encoder's on the same clips."""
    kinds = [kind for kind in _KINDS if kind in scores[0]]
    for place, kind in enumerate(kinds):
        name, marker = _KINDS[kind]
        colour, shift = _COLOURS[kind], 0.22 * (place - (len(kinds) - 1) / 2)
        level = 100 * scores[0][kind]["accuracy"]
        axes.axvline(level, color=colour, linewidth=0.8, linestyle=":", zorder=1)
        for row, score in enumerate(scores):
            low, high = (100 * end for end in score[kind]["interval"])
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1, alpha=0.55, zorder=2)
            above = score[kind]["beside_untrained"]["verdict"] == "above"
            axes.plot(
                100 * score[kind]["accuracy"], row + shift, marker, color=colour, markersize=4.5, zorder=3,
                markerfacecolor=colour if above else theme.page, label=name if row == 0 else "_",
            )  # fmt: skip
    stripes(axes, len(scores), theme)


def bars(axes: Axes, values: Sequence[float | None], theme: Theme) -> None:
    """A bar for each row; none where there is no value."""
    axes.barh(
        range(len(values)), [value or 0.0 for value in values], height=0.6, color=theme.neutral, zorder=2
    )
    stripes(axes, len(values), theme)


def goals(axes: Axes, rows: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """Goals that were reached by planning on frozen encoders, with Wilson's intervals."""
    for place, row in enumerate(rows):
        if "plan" not in row:
            continue
        plan = row["plan"]
        share, (low, high) = plan["successes"] / plan["episodes"], plan["interval"]
        axes.plot([100 * low, 100 * high], [place] * 2, color=theme.accent, linewidth=1.2)
        axes.plot(100 * share, place, "o", color=theme.accent, markersize=5)
    axes.set_title("Goals reached")
    axes.set_xlabel("%")
    axes.set_xlim(-3, 103)
    stripes(axes, len(rows), theme)


def stripes(axes: Axes, count: int, theme: Theme) -> None:
    """Every other row stands on a band, so that the eye stays on its line."""
    for row in np.arange(0, count, 2):
        axes.axhspan(row - 0.5, row + 0.5, color=theme.raised, zorder=0)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
