"""Picture of an experiment: what models foresee where pictures do not show velocities, and what they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from worldmodel.report.theme import Theme, drawing, new_figure, to_png

BLUE, ORANGE = "#0072b2", "#d55e00"


def velocity_picture(
    errors: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    rows: Sequence[Mapping[str, Any]],
    theme: Theme,
) -> bytes:
    """Left: error of imagined poses over the steps imagined. Right: goals reached.

    Args:
        errors: For each model, three at most, ``moving`` and ``at rest``: how the episodes go on; each with
            ``imagined`` and ``true_latents``, distances in rad after each step.
        rows: ``label``, ``successes``, ``episodes``, ``interval`` and ``model`` (whether it is a learned one).
        theme: Its colours.
    """
    with drawing(theme):
        figure = new_figure(860, 330)
        axes, bars = figure.subplots(1, 2, width_ratios=[1, 1.15])
        axes.set_title("Imagined arm, distance from the true one")
        for color, (name, error) in zip((theme.neutral, ORANGE, BLUE), errors.items(), strict=False):
            for how, dashes in (("moving", "-"), ("at rest", (0, (3, 2)))):
                steps = np.arange(1, len(error[how]["imagined"]) + 1)
                label = name if how == "moving" else None
                axes.plot(steps, error[how]["imagined"], color=color, linestyle=dashes, label=label)
        every = [error[how] for error in errors.values() for how in ("moving", "at rest")]
        floor = np.mean([error["true_latents"] for error in every], axis=0)
        axes.plot([], [], color=theme.muted, linestyle=(0, (3, 2)), label="the same from rest")
        axes.plot(steps, floor, color=theme.muted, linewidth=1, linestyle=":", label="read from true latents")
        axes.set_xlabel("steps imagined")
        axes.set_ylabel("median distance (rad)")
        # Room for the legend above the lines.
        axes.set_ylim(0, 1.45 * max(max(error["imagined"]) for error in every))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(handlelength=2.2, labelcolor=theme.ink, loc="upper left")

        bars.set_title("Goals reached, with 95% intervals")
        bars.grid(visible=False)
        for place, row in enumerate(rows):
            rate = row["successes"] / row["episodes"]
            low, high = row["interval"]
            color = BLUE if row["model"] else theme.neutral
            bars.barh(place, 100 * rate, height=0.62, color=color)
            bars.plot([100 * low, 100 * high], [place, place], color=theme.ink, linewidth=1)
            bars.text(104, place, f"{row['successes']}/{row['episodes']}", va="center")
        bars.set_yticks(range(len(rows)), [row["label"] for row in rows])
        bars.tick_params(axis="y", length=0, labelcolor=theme.ink)
        bars.invert_yaxis()
        bars.set_xlim(0, 118)
        bars.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"])
        return to_png(figure)
