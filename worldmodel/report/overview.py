"""One wide picture for a README: filmstrips of tasks that the agent solved, beside the success rates."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.report.artefacts import DemoRun, Episode, choose_spread
from worldmodel.report.figures import draw_success_bars
from worldmodel.report.strips import spread
from worldmodel.report.theme import LIGHT, drawing, new_figure, to_png
from worldmodel.report.video import upscale

#: Size in CSS pixels.
WIDTH, HEIGHT = 1200, 450
_ROWS, _FRAMES = 3, 5
#: Places in CSS pixels: a frame, the gap between two, the margin, the row of titles.
_SIDE, _GAP, _MARGIN, _TOP = 112, 9, 28, 58


def overview(run: DemoRun) -> bytes | None:
    """The picture as PNG, ``SCALE * WIDTH`` x ``SCALE * HEIGHT`` pixels on an opaque ground; None without results.

    Raises:
        ValueError: An episode's file is damaged.
    """
    results, bars = run.results("vjepa"), run.bars()
    if results is None:
        return None
    solved = [task for task in results["tasks"] if task["success"]]
    door = [task for task in solved if task["label"] == "other room"]
    tasks = choose_spread(door if len(door) >= _ROWS else solved or results["tasks"], _ROWS)
    with drawing(LIGHT):
        figure = new_figure(WIDTH, HEIGHT, None)
        figure.set_facecolor(LIGHT.page)
        for row, task in enumerate(tasks):
            episode = run.episode("vjepa", task)
            if episode is not None:
                _filmstrip(figure, row, episode)
        start = _MARGIN + (1 + _FRAMES) * (_SIDE + _GAP) + 24 + 56
        axes = _axes(figure, start, _TOP - 14, WIDTH - start - _MARGIN - 10, HEIGHT - _TOP - 22)
        _title(figure, start, "Goals reached, with 95% intervals")
        draw_success_bars(axes, bars, LIGHT)
        return to_png(figure)


def _filmstrip(figure: Figure, row: int, episode: Episode) -> None:
    """The goal, then frames from the first to the last."""
    top = _TOP + row * (_SIDE + _GAP + 6)
    _picture(_axes(figure, _MARGIN, top, _SIDE, _SIDE), episode.goal, framed=True)
    start = _MARGIN + _SIDE + _GAP + 24
    if row == 0:
        _title(figure, _MARGIN, "Goal", LIGHT.accent)
        _title(figure, start, "The V-JEPA agent, planning from pixels")
    for column, index in enumerate(spread(len(episode.frames), _FRAMES)):
        _picture(_axes(figure, start + column * (_SIDE + _GAP), top, _SIDE, _SIDE), episode.frames[index])


def _picture(axes: Axes, frame: np.ndarray, framed: bool = False) -> None:
    axes.imshow(upscale(frame), interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(framed)
        spine.set_color(LIGHT.accent)
        spine.set_linewidth(2.2)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in CSS pixels from the top left."""
    return figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))


def _title(figure: Figure, left: float, text: str, color: str = LIGHT.ink) -> None:
    figure.text(left / WIDTH, 1 - 42 / HEIGHT, text, fontsize=10.5, weight="bold", color=color, va="baseline")
