"""One look for pictures and page: the colours of the two rooms, in a light and a dark version."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class Theme:
    """Colours, as ``#rrggbb``."""

    name: str
    page: str
    #: What pictures and boxes stand on.
    raised: str
    ink: str
    muted: str
    line: str
    #: Bars of what is not ours.
    neutral: str
    accent: str


LIGHT = Theme("light", "#fcfbf8", "#f2f1ec", "#2c3240", "#6b7180", "#dddbd3", "#9a9fad", "#d4222a")
DARK = Theme("dark", "#14171d", "#1e222b", "#e3e5ea", "#9aa1af", "#333945", "#7c869a", "#f2545b")

#: Pixels of a picture per CSS pixel, so that it is sharp on dense screens.
SCALE = 2

_FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """matplotlib's settings for pictures of the report, for the duration of the block."""
    # A family that is not installed would be warned of at each text.
    installed = {font.name for font in font_manager.fontManager.ttflist}
    # Any: the type stubs list every key that matplotlib has, and versions differ in them.
    settings: Any = {
        "font.family": [name for name in _FONTS if name in installed] or ["sans-serif"],
        "font.size": 8.5,
        "text.color": theme.ink,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": 8,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.7,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "figure.facecolor": "none",
        "savefig.facecolor": "auto",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: int, height: int, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure of ``width`` x ``height`` CSS pixels, drawn by Agg without any global state."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100 * SCALE, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def one_axes(width: int, height: int, title: str) -> tuple[Figure, Axes]:
    """A figure with a single titled plot."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file of ``SCALE`` pixels per CSS pixel."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return memory.getvalue()


def few_colours(png: bytes) -> bytes:
    """A PNG file with a palette, for pictures of few colours: a third of the size."""
    memory = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(memory, format="png", optimize=True)
    return memory.getvalue()
