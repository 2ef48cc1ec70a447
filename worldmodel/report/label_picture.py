"""Picture of the label-efficiency experiment: what is reached, and read, with so many action-labelled episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from worldmodel.report.theme import Theme, drawing, new_figure, to_png

#: Methods in the order of tables, and what they are called.
METHODS = {
    "vjepa": "V-JEPA, frozen",
    "vjepa_tuned": "V-JEPA, fine-tuned",
    "transfer": "V-JEPA of other video, frozen",
    "untrained": "untrained, frozen",
    "end_to_end": "end to end",
}
_COLOURS = {"vjepa": "#0072b2", "vjepa_tuned": "#56b4e9", "transfer": "#009e73", "end_to_end": "#d55e00"}
_MARKERS = {"vjepa": "o", "vjepa_tuned": "D", "transfer": "^", "untrained": "s", "end_to_end": "v"}
#: Methods stand side by side at each number of episodes, so that their intervals can be told apart: by so much of the
#: axis.
_ASIDE = 0.012


def label_picture(
    rows: Sequence[Mapping[str, Any]], worlds: Mapping[str, Mapping[str, Any]], theme: Theme
) -> bytes:
    """A column for each world: goals reached above, R^2 of few-label probes below, one line for each method.

    Args:
        rows: ``world``, ``method``, ``labels``; ``successes``, ``episodes`` and their ``interval``; ``encoder`` and
            ``latent``, each with ``r2`` and ``interval``.
        worlds: For each world ``pixels`` (``r2``), and ``random`` (``successes``, ``episodes``) where it was played.
        theme: Its colours.
    """
    panels = ("Goals reached", "Read from the encoder's tokens", "Read from the latents")
    with drawing(theme):
        figure = new_figure(max(420, 380 * len(worlds)), 700)
        grid = figure.subplots(
            3, len(worlds), squeeze=False, sharey="row", sharex=True, height_ratios=[1.3, 1, 1]
        )
        for column, (world, controls) in enumerate(worlds.items()):
            mine = [row for row in rows if row["world"] == world]
            draw_lines(grid[0][column], [(row, success(row)) for row in mine], theme)
            for axes, part in zip(grid[1:, column], ("encoder", "latent"), strict=True):
                draw_lines(axes, [(row, (row[part]["r2"], *row[part]["interval"])) for row in mine], theme)
            if "random" in controls:
                level(grid[0][column], success(controls["random"])[0], "random actions", theme)
            level(grid[1][column], controls["pixels"]["r2"], "pixels", theme)
            for row, title in enumerate(panels):
                name = world.rpartition("/")[2]
                grid[row][column].set_title(f"{name}: {title[0].lower()}{title[1:]}")
            counts = sorted({row["labels"] for row in mine})
            grid[2][column].set_xticks(counts, [f"{count:,}" for count in counts])
            grid[2][column].set_xlabel("episodes with actions")
        grid[0][0].set_ylim(-3, 103)
        grid[0][0].set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"])
        for axes in grid[1:, 0]:
            axes.set_ylim(max(-0.5, min(-0.02, axes.get_ylim()[0])), 1.02)
            axes.set_ylabel("R² of the state, few labels")
        named: dict[str, Any] = {}  # rows may be missing in some worlds
        for axes in grid[0]:
            named |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        labels = [name for name in METHODS.values() if name in named]
        handles = [named[name] for name in labels]
        columns = min(len(labels), 3 if len(worlds) == 1 else 5)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, labelcolor=theme.ink)
        return to_png(figure)


def success(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Percent of the goals, with the ends of the interval."""
    low, high = row["interval"]
    return 100 * row["successes"] / row["episodes"], 100 * low, 100 * high


def draw_lines(
    axes: Axes, points: Sequence[tuple[Mapping[str, Any], tuple[float, float, float]]], theme: Theme
) -> None:
    """Values with bands and whiskers over the number of episodes, a line for each method."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = [name for name in METHODS if any(row["method"] == name for row, _ in points)]
    counts = [row["labels"] for row, _ in points]
    ends = max(max(counts) / min(counts), 2.0)
    axes.set_xlim(min(counts) / ends**0.07, max(counts) * ends**0.07)
    for place, name in enumerate(shown):
        aside = ends ** (_ASIDE * (place - (len(shown) - 1) / 2))
        mine = sorted((row["labels"] * aside, *values) for row, values in points if row["method"] == name)
        x, middle, low, high = zip(*mine, strict=True)
        colour = _COLOURS.get(name, theme.muted)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.vlines(x, low, high, color=colour, linewidth=1)
        axes.plot(x, middle, color=colour, marker=_MARKERS[name], markersize=4.5, label=METHODS[name])


def level(axes: Axes, value: float, name: str, theme: Theme) -> None:
    """What does not depend on the number of episodes."""
    axes.axhline(value, color=theme.muted, linewidth=1, linestyle=(0, (3, 2)))
    place = axes.get_yaxis_transform()
    axes.text(
        0.995,
        value,
        name,
        transform=place,
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=theme.muted,
        clip_on=True,
    ).set_in_layout(False)
