"""Figures are PNGs of the wanted size in the theme's colours, and leave matplotlib's settings alone."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from worldmodel.report.figures import Bar, Line, curves, draw_success_bars, line_of
from worldmodel.report.theme import DARK, LIGHT, SCALE, Theme, drawing, new_figure, to_png


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGBA")).astype(int)


def shows(picture: np.ndarray, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(picture[..., :3] - wanted).max(axis=-1)[picture[..., 3] > 250] < 3).any())


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("log", [False, True])
def test_curves(theme: Theme, log: bool) -> None:
    before = dict(matplotlib.rcParams)
    lines = [Line("a", [0, 1, 2], [3.0, 0.2, 0.1]), None, Line("b", [0, 2], [1.0, 1.0], "muted", dashed=True)]
    picture = pixels(curves("Loss", lines, theme, width=300, height=200, log=log))
    assert picture.shape == (SCALE * 200, SCALE * 300, 4)
    assert picture[0, 0, 3] == 0, "the page shows through"
    assert shows(picture, theme.accent) and shows(picture, theme.ink)
    assert dict(matplotlib.rcParams) == before


def test_a_plot_without_lines_or_with_one_point_is_drawn() -> None:
    empty = pixels(curves("Nothing", [None], LIGHT))
    assert empty.shape == (SCALE * 240, SCALE * 380, 4)
    assert not shows(empty, LIGHT.accent)
    assert shows(pixels(curves("Point", [Line("a", [0], [1.0])], LIGHT, legend=False)), LIGHT.accent)


def test_line_of_takes_the_rows_that_have_the_metric() -> None:
    rows = [
        {"step": 0, "loss": 2.0, "rank": 5.0},
        {"step": 20, "loss": 1.0},
        {"step": 40, "loss": 0.5, "rank": 6.0},
    ]
    assert line_of(rows, "rank", "rank") == Line("rank", [0, 40], [5.0, 6.0])
    assert line_of(rows, "unknown", "?") is None


def test_bars_are_as_long_as_the_rates() -> None:
    with drawing(LIGHT):
        figure = new_figure(400, 100, None)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_success_bars(
            axes, [Bar("ours", 3, 4, 0.5, 0.9, accent=True), Bar("none", 0, 0, 0.0, 1.0)], LIGHT
        )
        picture = pixels(to_png(figure))
    row = picture[(np.abs(picture[..., :3] - [0xD4, 0x22, 0x2A]).max(axis=-1) < 3).sum(axis=1).argmax()]
    width = (np.abs(row[:, :3] - [0xD4, 0x22, 0x2A]).max(axis=-1) < 3).nonzero()[0].max() + 1
    assert width == pytest.approx(0.75 * SCALE * 400, abs=3)


def test_pyplot_and_its_state_are_not_used() -> None:
    code = "import sys, worldmodel.report.figures; raise SystemExit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
