"""A picture of masks: some samples of each through time, and what is seen and predicted on average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from worldmodel.masks import Coverage, Grid, Mask, MaskConfig, draw_masks
from worldmodel.report.strips import spread
from worldmodel.report.theme import LIGHT, Theme, drawing, few_colours, new_figure, to_png

#: Places in CSS pixels: margin, column of names, longer side of a frame, gap between frames, head, space between bands.
_MARGIN, _NAMES, _SIDE, _GAP, _HEAD, _BETWEEN, _FOOT = 26, 176, 42, 4, 66, 34, 54
#: Width of the chart over time, and the space left of it and of the map.
_CHART, _CHART_GAP = 150, 40
#: Steps shown at most, and samples of each mask.
_STEPS, _SAMPLES = 8, 3
_CONTEXT = "#41597d"


def mask_picture(
    masks: Mapping[str, MaskConfig],
    grid: Grid,
    seed: int,
    measured: Mapping[str, Coverage],
    batch_size: int = 24,
    theme: Theme = LIGHT,
) -> bytes:
    """One band per mask: three samples through time, a map of how often places are seen, and shares step by step.

    Args:
        masks: How each mask is drawn.
        grid: The token grid.
        seed: Of the samples that are shown.
        measured: The masks' averages, by the same names.
        batch_size: The samples shown are the first of a batch of so many; matters with ``collate="raster"`` only.
        theme: Colours.

    Returns:
        A PNG file.
    """
    longer = max(grid.rows, grid.columns)
    frame = _SIDE * grid.columns / longer, _SIDE * grid.rows / longer
    steps = spread(grid.steps, _STEPS)
    band = _SAMPLES * (frame[1] + _GAP) - _GAP
    strip = max(len(steps) * (frame[0] + _GAP) - _GAP, 150)
    left = _MARGIN + _NAMES
    middle = left + strip + _CHART_GAP
    right = middle + band * grid.columns / grid.rows + _CHART_GAP
    width, height = right + _CHART + _MARGIN, _HEAD + len(masks) * (band + _BETWEEN) - _BETWEEN + _FOOT
    with drawing(theme):
        page = _Page(round(width), round(height), theme)
        page.text(_MARGIN, 20, "Masks", fontsize=13, weight="bold")
        page.text(left, 20, f"{_SAMPLES} samples through time", weight="bold")
        page.text(left, 35, _steps_shown(steps, grid), color=theme.muted, fontsize=8)
        page.text(middle, 20, "Place is seen", weight="bold")
        page.text(middle, 35, "share of clips", color=theme.muted, fontsize=8)
        page.text(right, 20, "Step is seen, predicted", weight="bold")
        page.text(right, 35, "share of its places", color=theme.muted, fontsize=8)
        for number, (name, config) in enumerate(masks.items()):
            top = _HEAD + number * (band + _BETWEEN)
            if number:
                page.rule(top - _BETWEEN / 2)
            _describe(page, top, name, config, grid, measured[name])
            mask = draw_masks({name: config}, grid, seed, range(batch_size))[0]
            for sample in range(min(_SAMPLES, batch_size)):
                colours = _colours(mask, sample, grid, theme)
                y = top + sample * (frame[1] + _GAP)
                for column, step in enumerate(steps):
                    _frame(page.axes(left + column * (frame[0] + _GAP), y, *frame), colours[step])
            _place_map(page.axes(middle, top, right - middle - _CHART_GAP, band), measured[name], theme)
            _step_chart(page.axes(right, top, _CHART, band), measured[name], number + 1 == len(masks), theme)
        _legend(page, left, height - 24)
        return few_colours(to_png(page.figure))


class _Page:
    """A figure on which places are CSS pixels from the top left corner."""

    def __init__(self, width: int, height: int, theme: Theme) -> None:
        self.width, self.height, self.theme = width, height, theme
        self.figure: Figure = new_figure(width, height, None)
        self.figure.set_facecolor(theme.page)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        bottom = 1 - (y + height) / self.height
        return self.figure.add_axes((x / self.width, bottom, width / self.width, height / self.height))

    def text(
        self, x: float, y: float, text: str, color: str = "", fontsize: float = 9, weight: str = "normal"
    ) -> None:
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            color=color or self.theme.ink,
            fontsize=fontsize,
            weight=weight,
            va="top",
            linespacing=1.5,
        )

    def rule(self, y: float) -> None:
        axes = self.axes(_MARGIN, y, self.width - 2 * _MARGIN, 1)
        axes.axis("off")
        axes.axhline(0.5, color=self.theme.line, linewidth=0.8)


def _steps_shown(steps: list[int], grid: Grid) -> str:
    every = "" if len(steps) == grid.steps else f"{len(steps)} of "
    return f"{every}{grid.steps} steps of {grid.rows} x {grid.columns} tokens"


def _describe(page: _Page, top: float, name: str, config: MaskConfig, grid: Grid, measured: Coverage) -> None:
    total = grid.steps * grid.rows * grid.columns
    page.text(_MARGIN, top - 3, name, fontsize=10, weight="bold")
    kind = _kind(config)
    page.text(_MARGIN, top + 16, "\n".join(kind), color=page.theme.muted, fontsize=8)
    about = "about " if config.collate == "raster" else ""
    lines = [
        f"sees {about}{measured.context_tokens:.0f} tokens ({measured.context_tokens / total:.0%})",
        f"predicts {about}{measured.target_tokens:.0f} ({measured.target_tokens / total:.0%})",
    ]
    if config.kind == "ijepa":
        lines[1] = f"predicts {config.blocks} x {measured.target_tokens / config.blocks:.0f}"
    if measured.unused > 0.005:
        lines.append(f"drops {measured.unused:.0%}")
    page.text(_MARGIN, top + 24 + 16.5 * len(kind), "\n".join(lines), fontsize=8)


def _kind(config: MaskConfig) -> list[str]:
    """The settings that matter, in short lines."""
    if config.kind == "random":
        return ["single places, through all time"]
    if config.kind == "future":
        return ["the first steps are seen"]
    area = f"{config.scale_min:.0%}"
    if config.scale_max > config.scale_min:
        area = f"{config.scale_min * 100:.0f} to {config.scale_max:.0%}"
    lines = [f"{config.blocks} blocks of {area}"]
    if config.temporal_min < 1:
        lines.append(f"for {config.temporal_min * 100:.0f} to {config.temporal_max:.0%} of the clip")
    else:
        lines.append("of the frame, through all time")
    if config.collate == "raster":
        lines.append("cut in raster order")
    elif config.kind == "ijepa":
        lines.append("predicted apart")
    elif config.max_temporal_keep < 1:
        lines.append(f"context: first {config.max_temporal_keep:.0%}")
    return lines


def _colours(mask: Mask, sample: int, grid: Grid, theme: Theme) -> np.ndarray:
    """A sample's tokens as colours ``(steps, rows, columns, 3)``; separate targets in lighter and darker shades."""
    image = np.empty((grid.steps * grid.rows * grid.columns, 3))
    image[:] = to_rgb(theme.line)
    image[mask.context[sample].numpy()] = to_rgb(_CONTEXT)
    for group, ids in enumerate(mask.target[sample].numpy().reshape(mask.groups, -1)):
        image[ids] = _predicted(theme, lighter=0.65 * group / max(1, mask.groups - 1))
    return image.reshape(*grid, 3)


def _frame(axes: Axes, image: np.ndarray) -> None:
    axes.axis("off")
    axes.imshow(image, aspect="auto", interpolation="nearest")


def _mix(color: str, other: str, share: float) -> tuple[float, float, float]:
    """A colour with a share of another one in it."""
    red, green, blue = (
        (1 - share) * a + share * b for a, b in zip(to_rgb(color), to_rgb(other), strict=True)
    )
    return red, green, blue


def _predicted(theme: Theme, lighter: float = 0.0) -> tuple[float, float, float]:
    """The colour of what is predicted: the accent, softened, because it fills large areas."""
    return _mix(theme.accent, theme.page, 0.2 + 0.8 * lighter)


def _place_map(axes: Axes, measured: Coverage, theme: Theme) -> None:
    """How often each place is context, averaged over the steps, with the figures of a corner and the centre."""
    axes.axis("off")
    seen = measured.context.mean(axis=0)
    colours = LinearSegmentedColormap.from_list("seen", [theme.raised, _CONTEXT])
    axes.imshow(seen, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    corner, centre = measured.corner_and_centre()
    rows, columns = seen.shape
    for x, y, value, place in (
        (0.02 * columns - 0.5, 0.02 * rows - 0.5, corner, ("left", "top")),
        (columns / 2 - 0.5, rows / 2 - 0.5, centre, ("center", "center")),
    ):
        ink = theme.page if value > 0.5 else theme.ink
        axes.text(x, y, f"{value:.0%}", ha=place[0], va=place[1], color=ink, fontsize=8)


def _step_chart(axes: Axes, measured: Coverage, last: bool, theme: Theme) -> None:
    """Stacked bars per step: seen, neither, predicted."""
    seen, predicted = measured.context.mean(axis=(1, 2)), measured.target.mean(axis=(1, 2))
    steps = np.arange(1, len(seen) + 1)
    axes.bar(steps, 1, width=0.82, color=theme.line)
    axes.bar(steps, seen, width=0.82, color=_CONTEXT)
    axes.bar(steps, predicted, width=0.82, bottom=1 - predicted, color=_predicted(theme))
    axes.set_ylim(0, 1)
    axes.set_xlim(0.4, len(seen) + 0.6)
    axes.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([1, len(seen)] if len(seen) > 1 else [1])
    axes.tick_params(axis="x", length=0, labelbottom=last)
    if last:
        axes.set_xlabel("step", labelpad=-8)


def _legend(page: _Page, x: float, y: float) -> None:
    names: dict[str, str | tuple[float, float, float]] = {
        "context: seen": _CONTEXT,
        "target: predicted": _predicted(page.theme),
        "neither": page.theme.line,
    }
    page.figure.legend(
        handles=[Patch(color=color, label=name) for name, color in names.items()],
        loc="upper left",
        bbox_to_anchor=(x / page.width, 1 - (y - 14) / page.height),
        ncols=3,
        borderpad=0,
        handlelength=1,
        handleheight=1,
        columnspacing=1.8,
        borderaxespad=0,
        labelcolor=page.theme.ink,
    )
