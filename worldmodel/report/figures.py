"""Curves and bars, each a PNG in the colours of a theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from worldmodel.report.theme import Theme, drawing, one_axes, to_png

#: Metrics rows: one dict per logged step.
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: Its name.
        x, y: Its points.
        color: Name of a theme's colour (``accent``, ``ink``, ``muted``, ``neutral``, ``line``), or any ``#rrggbb``.
        dashed: For baselines.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "accent"
    dashed: bool = False


def line_of(rows: Rows, key: str, label: str, color: str = "accent", dashed: bool = False) -> Line | None:
    """A metric over the steps at which it was logged; None if it never was."""
    points = [(row["step"], row[key]) for row in rows if key in row]
    return Line(label, [x for x, _ in points], [y for _, y in points], color, dashed) if points else None


def curves(
    title: str,
    lines: Sequence[Line | None],
    theme: Theme,
    *,
    width: int = 380,
    height: int = 240,
    x_label: str = "training step",
    y_label: str = "",
    log: bool = False,
    legend: bool = True,
    zero: bool = True,
) -> bytes:
    """Lines in one plot.

    Args:
        title: What is shown.
        lines: The lines; None entries are left out.
        theme: Colours.
        width, height: Size in CSS pixels.
        x_label, y_label: Names of the axes, with units.
        log: Logarithmic vertical axis.
        legend: Whether to name the lines inside the plot; those without a label never are.
        zero: Whether a linear vertical axis begins at zero.

    Returns:
        A PNG of ``SCALE * width`` x ``SCALE * height`` pixels with a transparent background.
    """
    with drawing(theme):
        figure, axes = one_axes(width, height, title)
        for line in lines:
            if line is not None:
                _draw(axes, line, theme)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log:
            _log_scale(axes)
        elif zero:
            lowest = min((min(line.y) for line in lines if line is not None), default=0.0)
            axes.set_ylim(bottom=0 if lowest >= 0 else None)
        if legend and any(line is not None and line.label for line in lines):
            axes.legend(loc="best", handlelength=1.6, labelcolor=theme.ink)
        return to_png(figure)


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis with plain numbers: powers of ten, or 1, 2 and 5 times them where the range is short."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 50 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw(axes: Axes, line: Line, theme: Theme) -> None:
    style = (0, (3, 2)) if line.dashed else "-"
    # A single point has no length; a marker shows it all the same.
    marker = "o" if len(line.x) == 1 else ""
    axes.plot(
        line.x,
        line.y,
        color=getattr(theme, line.color, line.color),
        linestyle=style,
        linewidth=1.2 if line.dashed else 1.7,
        marker=marker,
        markersize=4,
        label=line.label,
    )


@dataclass(frozen=True)
class Bar:
    """A success rate: ``successes`` of ``episodes``, with its 95% interval ``low`` to ``high``."""

    label: str
    successes: int
    episodes: int
    low: float
    high: float
    accent: bool = False

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0


def draw_success_bars(axes: Axes, bars: Sequence[Bar], theme: Theme) -> None:
    """Horizontal bars from 0 to 100% with intervals, the names above them and the counts to the right."""
    axes.set_xlim(0, 1)
    axes.set_ylim(len(bars) - 0.45, -0.85)
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    for row, bar in enumerate(bars):
        color = theme.accent if bar.accent else theme.neutral
        axes.barh(row, 1, height=0.34, color=theme.raised)
        axes.barh(row, bar.rate, height=0.34, color=color)
        axes.plot([bar.low, bar.high], [row, row], color=theme.ink, linewidth=1.2, solid_capstyle="butt")
        for end in (bar.low, bar.high):
            axes.plot(
                [end, end], [row - 0.1, row + 0.1], color=theme.ink, linewidth=1.2, solid_capstyle="butt"
            )
        weight = "bold" if bar.accent else "normal"
        axes.text(0, row - 0.28, bar.label, ha="left", va="bottom", weight=weight)
        axes.text(1, row - 0.28, f"{bar.successes}/{bar.episodes}", ha="right", va="bottom", weight=weight)
