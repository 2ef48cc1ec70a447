"""A picture of the lineage: systems by year, by what prevents collapse, and by where their targets come from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from worldmodel.objectives.lineage import System
from worldmodel.report.theme import LIGHT, Theme, drawing, few_colours, new_figure, to_png

#: Columns by what prevents collapse: heading, and words of ``System.collapse`` that put a system there. Systems of two
#: columns have these side by side.
LANES: dict[str, tuple[str, ...]] = {
    "terms on the\nembeddings": (
        *("variance", "covariance", "infomax", "correlation", "SIGReg", "uniformity"),
        *("the objective itself", "such a term"),
    ),
    "negatives": ("negatives",),
    "pixels": ("pixels",),
    "a frozen\nnetwork": ("frozen", "fixed targets", "teacher"),
    "labels from\nthe data": ("labels", "tokens"),
    "even use of\nprototypes": ("Sinkhorn", "centring"),
    "asymmetry": ("EMA", "stop-gradient"),
}
#: Where targets come from, and the colour of it.
TARGETS = {
    "data": "#8a8f9c",
    "networks in training, with gradient": "#d55e00",
    "networks in training, without": "#e6a100",
    "moving average (EMA)": "#0072b2",
    "frozen network": "#009e73",
}
#: Places in CSS pixels: width, margin, column of years, head, line of text, space in and between boxes.
_WIDTH, _MARGIN, _YEARS, _HEAD, _LINE, _PAD, _GAP = 980, 16, 44, 100, 13, 5, 6
#: Letters of a title that one column holds, and space for each year that is left out, up to so many.
_LETTERS, _YEAR, _MOST_YEARS = 18, 2, 15


def lanes_of(system: System) -> range:
    """Which of ``LANES`` a system stands in, one or neighbours.

    Raises:
        ValueError: No word of ``LANES`` is in ``system.collapse``.
    """
    found = [i for i, words in enumerate(LANES.values()) if any(word in system.collapse for word in words)]
    if not found:
        raise ValueError(
            f"{system.name}: {system.collapse!r} is of no column; add a word of it to LANES of {__name__}"
        )
    return range(found[0], found[-1] + 1)


def targets_of(system: System) -> list[str]:
    """Which of ``TARGETS`` a system has, one or several."""
    words = {
        "data": ("pixels",),
        "moving average (EMA)": ("EMA",),
        "frozen network": ("frozen", "teacher", "world model"),
    }
    found = [name for name, known in words.items() if any(word in system.target for word in known)]
    if found or system.gradient == "-":
        return found or ["data"]
    return [f"networks in training, with{' gradient' if system.gradient == 'yes' else 'out'}"]


def lineage_picture(systems: Sequence[System], theme: Theme = LIGHT) -> bytes:
    """Years go down, each system is a box in the column of what prevents its collapse; its distance is below its name.

    Args:
        systems: In the order of their years.
        theme: Colours.

    Returns:
        A PNG file.
    """
    with drawing(theme):
        return few_colours(to_png(lineage_figure(systems, theme)))


def lineage_figure(systems: Sequence[System], theme: Theme) -> Figure:
    """The figure of :func:`lineage_picture`, for a caller within ``drawing(theme)``."""
    boxes, rules, height = _placed(systems)
    figure = new_figure(_WIDTH, round(height), None)
    figure.set_facecolor(theme.page)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    _head(axes, theme)
    for year, y in rules:
        axes.plot([_MARGIN, _WIDTH - _MARGIN], [y, y], color=theme.line, linewidth=0.7)
        axes.text(_MARGIN, y + _GAP + _PAD, str(year), weight="bold", fontsize=9, va="top")
    for system, y in boxes:
        _box(axes, system, y, theme)
    return figure


def _placed(systems: Sequence[System]) -> tuple[list[tuple[System, float]], list[tuple[int, float]], float]:
    """The top of each box, the rule above each year, and the height of the whole."""
    boxes: list[tuple[System, float]] = []
    rules: list[tuple[int, float]] = []
    top = float(_HEAD)
    for year, group in groupby(systems, key=lambda system: system.year):
        left_out = year - rules[-1][0] - 1 if rules else 0
        top += _YEAR * min(_MOST_YEARS, left_out)
        rules.append((year, top))
        free = [top + _GAP] * len(LANES)
        # What takes two columns comes first, so that nothing is above it in one of them only.
        for system in sorted(group, key=lambda system: -len(lanes_of(system))):
            lanes = lanes_of(system)
            y = max(free[lane] for lane in lanes)
            boxes.append((system, y))
            for lane in lanes:
                free[lane] = y + _height(system) + _GAP
        top = max(free)
    return boxes, rules, top + _MARGIN


def _height(system: System) -> float:
    return _LINE * len(_title(system) + _distance(system)) + 2 * _PAD


def _title(system: System) -> list[str]:
    return textwrap.wrap(system.title.partition(" (")[0], _LETTERS * len(lanes_of(system)))


def _distance(system: System) -> list[str]:
    return textwrap.wrap(system.distance.partition(",")[0], _LETTERS * len(lanes_of(system)))


def _left(lane: int) -> float:
    return _MARGIN + _YEARS + lane * (_WIDTH - 2 * _MARGIN - _YEARS + _GAP) / len(LANES)


def _head(axes: Axes, theme: Theme) -> None:
    axes.text(_MARGIN, 16, "Targets come from", weight="bold", va="top")
    axes.legend(
        handles=[
            Line2D([], [], linestyle="", marker="o", color=colour, label=name, markersize=6)
            for name, colour in TARGETS.items()
        ],
        loc="upper left",
        bbox_to_anchor=(_left(1), 11),
        bbox_transform=axes.transData,
        ncols=len(TARGETS),
        handletextpad=0.1,
        columnspacing=1.6,
        borderpad=0.3,
        borderaxespad=0,
        labelcolor=theme.ink,
    )
    axes.text(_MARGIN, 42, "What prevents collapse", weight="bold", va="top")
    for lane, name in enumerate(LANES):
        axes.text(_left(lane) + _PAD, _HEAD - 8, name, color=theme.muted, va="bottom", linespacing=1.3)


def _box(axes: Axes, system: System, y: float, theme: Theme) -> None:
    lanes, title, distance = lanes_of(system), _title(system), _distance(system)
    x, end, height = _left(lanes[0]), _left(lanes[-1] + 1) - _GAP, _height(system)
    shape = "round,pad=0,rounding_size=4"
    axes.add_patch(
        FancyBboxPatch((x, y), end - x, height, boxstyle=shape, facecolor=theme.raised, edgecolor="none")
    )
    for number, line in enumerate(title + distance):
        first = number < len(title)
        axes.text(
            x + _PAD,
            y + _PAD + _LINE * number,
            line,
            va="top",
            fontsize=8.2 if first else 7.4,
            color=theme.ink if first else theme.muted,
            weight="bold" if first else "normal",
        )
    for number, target in enumerate(targets_of(system)):
        place = end - _PAD - 4 - 10 * number
        axes.plot(place, y + height - _PAD - 6, "o", color=TARGETS[target], markersize=5.5)
