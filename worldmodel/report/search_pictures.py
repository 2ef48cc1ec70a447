"""Pictures of a planner's search: costs, candidates, imagined against real futures, the cost around an action."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worldmodel.report.search_record import SearchRecord
from worldmodel.report.theme import Theme, drawing, new_figure, to_png

BLUE, ORANGE = "#0072b2", "#d55e00"
_ROWS = {"imagined": "imagined", "planned": "same actions\nin the world", "came": "what came,\nreplanning"}


def cost_picture(record: SearchRecord, theme: Theme) -> bytes:
    """Cost over the iterations of the shown decisions, and over the episode."""
    with drawing(theme):
        figure = new_figure(860, 300)
        left, right = figure.subplots(1, 2)
        left.set_title("Cost against iterations")
        for row, color in zip(record.shown, _colors(record), strict=True):
            count = int(np.isfinite(record.best[row]).sum()) or 1
            x = np.arange(1, count + 1)
            left.plot(
                x,
                record.best[row, :count],
                color=color,
                marker="o",
                markersize=3.5,
                label=f"step {record.step[row]}",
            )
            left.plot(x, record.mean[row, :count], color=color, linestyle=(0, (3, 2)), linewidth=1.2)
        left.plot([], [], color=theme.muted, marker="o", markersize=3.5, label="best candidate")
        left.plot(
            [],
            [],
            color=theme.muted,
            linestyle=(0, (3, 2)),
            linewidth=1.2,
            label="mean of those learned from",
        )
        left.set_xlabel("iteration")
        left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        left.legend(labelcolor=theme.ink, handlelength=2.2)
        right.set_title("Along the episode")
        right.plot(record.step, record.best[:, 0], color=theme.neutral, label="best of the first iteration")
        right.plot(record.step, record.cost, color=BLUE, label="chosen plan")
        for row, color in zip(record.shown, _colors(record), strict=True):
            right.plot(record.step[row], record.cost[row], "o", color=color, markersize=5)
        right.set_xlabel("environment step of the decision")
        right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        right.legend(labelcolor=theme.ink)
        return _finished(figure)


def candidates_picture(record: SearchRecord, theme: Theme) -> bytes:
    """The candidates' first actions, iteration by iteration, and their spread along the plan."""
    decisions, count = record.rounds.shape
    with drawing(theme):
        figure = new_figure(190 * count + 250, 40 + 190 * decisions)
        grid = figure.subplots(decisions, count + 1, squeeze=False, width_ratios=[1] * count + [1.25])
        for row, places in enumerate(grid):
            for number, axes in enumerate(places[:-1]):
                _scatter(axes, record, row, number, theme)
            _spread(places[-1], record, row, theme)
            places[0].set_ylabel(f"step {record.step[record.shown[row]]}\n{places[0].get_ylabel()}")
        return _finished(figure)


def _scatter(axes: Axes, record: SearchRecord, row: int, number: int, theme: Theme) -> None:
    points, costs = record.first[row, number], record.first_cost[row, number]
    axes.grid(visible=False)
    if row == 0:
        axes.set_title(
            "" if np.isnan(record.rounds[row, number]) else f"iteration {record.rounds[row, number]:.0f}"
        )
    there = np.isfinite(costs) & np.isfinite(points).all(axis=1)
    if not there.any():
        axes.axis("off")
        return
    points, costs = points[there], costs[there]
    order = np.argsort(-costs)  # the best on top
    rank = np.argsort(np.argsort(costs)) / max(1, len(costs) - 1)
    colors = colormaps["viridis"](1 - rank)
    dims = record.dims
    if len(dims) == 2:
        x, y = points[order][:, dims].T
        axes.scatter(
            x,
            y,
            s=11,
            c=colors[order],
            linewidths=0.25,
            edgecolors=theme.muted,
            clip_on=False,
        )
        axes.plot(
            *record.chosen[row, dims],
            "x",
            color=theme.accent,
            markersize=7,
            markeredgewidth=1.8,
            clip_on=False,
        )
        _limits(axes, record, "y", 1)
        axes.set_aspect("equal" if np.ptp(axes.get_xlim()) == np.ptp(axes.get_ylim()) else "auto")
    else:
        axes.scatter(points[order, dims[0]], costs[order], s=9, c=colors[order], linewidths=0)
        axes.axvline(record.chosen[row, dims[0]], color=theme.accent, linewidth=1.2)
        if number == 0:
            axes.set_ylabel("cost")
    _limits(axes, record, "x", 0)
    if number and len(dims) == 2:
        axes.set_ylabel("")
        axes.set_yticklabels([])
    if row < len(record.shown) - 1:
        axes.set_xlabel("")
        axes.set_xticklabels([])


def _limits(axes: Axes, record: SearchRecord, which: str, place: int) -> None:
    """Axis limits at the bounds, or around what was tried where there is none."""
    dim = record.dims[place]
    tried = record.first[..., dim]
    low = record.low[dim] if np.isfinite(record.low[dim]) else np.nanmin(tried)
    high = record.high[dim] if np.isfinite(record.high[dim]) else np.nanmax(tried)
    getattr(axes, f"set_{which}lim")(low, high)
    getattr(axes, f"set_{which}label")(f"first action [{dim}]")
    for side in {"x": ("left", "right"), "y": ("bottom", "top")}[which]:
        axes.spines[side].set_visible(True)


def _spread(axes: Axes, record: SearchRecord, row: int, theme: Theme) -> None:
    lines = [(n, spread) for n, spread in zip(record.rounds[row], record.spread[row], strict=True) if n == n]
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(lines)))
    for (number, spread), color in zip(lines, shades, strict=True):
        axes.plot(np.arange(1, len(spread) + 1), spread, color=color, label=f"iteration {number:.0f}")
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if row == 0:
        axes.set_title("Spread along the plan")
        axes.legend(labelcolor=theme.ink, handlelength=1.4)
    if row == len(record.shown) - 1:
        axes.set_xlabel("step of the plan")


def futures_picture(record: SearchRecord, theme: Theme) -> bytes:
    """What the model imagined, what these actions do in the world, and what came: one block for each decision."""
    rows = [name for name in _ROWS if len(getattr(record, name))]
    decisions, columns = len(record.shown), len(record.columns)
    height, width = record.goal.shape[-2:]
    cell = 80
    tall = round(cell * height / width)
    with drawing(theme):
        figure = new_figure(100 + cell * (columns + 1), 26 + decisions * (len(rows) * (tall + 6) + 22))
        blocks = figure.subfigures(decisions, 1, squeeze=False, hspace=0.02)[:, 0]
        for row, block in enumerate(blocks):
            grid = block.subplots(len(rows), columns + 1, squeeze=False)
            for place, name in enumerate(rows):
                for column in range(columns):
                    there = name != "came" or record.came_there[row, column]
                    _frame(grid[place, column], getattr(record, name)[row, column] if there else None)
                _frame(grid[place, -1], record.goal if place == 0 else None)
                grid[place, 0].set_ylabel(_ROWS[name], rotation=0, ha="right", va="center", labelpad=8)
            for column, step in enumerate(record.columns):
                said = f"step {record.step[record.shown[row]]}" if step == 0 else f"+{step}"
                grid[0, column].set_title(said, fontsize=8, fontweight="normal", loc="center", pad=3)
            grid[0, -1].set_title("goal", fontsize=8, fontweight="bold", loc="center", pad=3)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)  # type: ignore[union-attr, call-arg]
        return to_png(figure)


def _frame(axes: Axes, frame: np.ndarray | None) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    if frame is None:
        axes.axis("off")
    else:
        axes.imshow(np.moveaxis(frame, 0, -1), interpolation="nearest")


def landscape_picture(record: SearchRecord, theme: Theme) -> bytes:
    """Cost of the chosen plan with another first action, over the bounds."""
    decisions = len(record.shown)
    with drawing(theme):
        figure = new_figure(40 + 270 * decisions, 300)
        places = figure.subplots(1, decisions, squeeze=False)[0]
        for row, axes in enumerate(places):
            axes.set_title(f"step {record.step[record.shown[row]]}")
            if len(record.dims) == 2:
                _surface(axes, record, row, theme)
            else:
                _profile(axes, record, row, theme)
            axes.set_xlabel(f"first action [{record.dims[0]}]")
        handles, labels = places[-1].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, labelcolor=theme.ink, loc="outside lower center", ncols=2)
        return _finished(figure)


def _surface(axes: Axes, record: SearchRecord, row: int, theme: Theme) -> None:
    axes.grid(visible=False)
    (x, y), cost = record.axes[row], record.landscape[row]
    axes.set_ylabel(f"first action [{record.dims[1]}]" if row == 0 else "")
    finite = np.isfinite(cost)
    if not finite.any():
        return
    shown = axes.contourf(x, y, np.where(finite, cost, np.nanmax(cost[finite])), levels=18, cmap="viridis_r")
    least = np.unravel_index(np.where(finite, cost, np.inf).argmin(), cost.shape)
    axes.plot(
        x[least[1]],
        y[least[0]],
        "o",
        color="white",
        markeredgecolor="#2c3240",
        label="least on the grid",
        clip_on=False,
    )
    axes.plot(
        *record.chosen[row, record.dims],
        "X",
        color=theme.accent,
        markeredgecolor="white",
        markersize=9,
        label="chosen",
        clip_on=False,
    )
    axes.set_aspect("equal" if np.isclose(np.ptp(x), np.ptp(y)) else "auto")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.85, ticks=MaxNLocator(4))
    bar.outline.set_visible(False)
    if row == len(record.shown) - 1:
        bar.set_label("cost of the plan")


def _profile(axes: Axes, record: SearchRecord, row: int, theme: Theme) -> None:
    x, cost = record.axes[row, 0], record.landscape[row, 0]
    axes.plot(x, cost, color=BLUE)
    if np.isfinite(cost).any():
        least = int(np.where(np.isfinite(cost), cost, np.inf).argmin())
        axes.plot(
            x[least], cost[least], "o", color="white", markeredgecolor=theme.ink, label="least on the grid"
        )
    axes.axvline(record.chosen[row, record.dims[0]], color=theme.accent, linewidth=1.4, label="chosen")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylabel("cost of the plan" if row == 0 else "")


def _finished(figure: Figure) -> bytes:
    """As PNG, with room for titles at the edges."""
    figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return to_png(figure)


def _colors(record: SearchRecord) -> list[tuple[float, ...]]:
    """One for each shown decision, from early to late."""
    return [tuple(color) for color in colormaps["plasma"](np.linspace(0.05, 0.75, len(record.shown)))]


#: Name, picture, and what to look for.
PICTURES = (
    (
        "costs",
        cost_picture,
        "Left, a search that pays has lines that fall and flatten: still falling at the last iteration, it wants more "
        "of them; flat from the first, fewer would do. Right, the cost of the chosen plan should fall as the goal "
        "comes nearer, and the gap between the lines is what the search added to its first round of candidates.",
    ),
    (
        "candidates",
        candidates_picture,
        "The cloud should close around one place, with the chosen action (cross) in it; a light colour is a low cost. "
        "A cloud at the bounds wants more than the actions allow, one that stays wide says that first actions hardly "
        "matter, and one that closes far from the best of the first round was too hasty.",
    ),
    (
        "futures",
        futures_picture,
        "Where the first two rows part, the model imagines what does not happen; where only the third differs, "
        "replanning changed its mind.",
    ),
    (
        "landscape",
        landscape_picture,
        "Cost of the chosen plan when only its first action is replaced, over the bounds: the cross should lie in the "
        "basin. A flat or rugged surface means that the cost tells actions hardly apart.",
    ),
)  # fmt: skip
