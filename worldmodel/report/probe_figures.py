"""Pictures of probes: confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldmodel.report.theme import Theme, drawing, one_axes, to_png

NAMED = 20  # up to so many classes are called by name
COUNTED = 12  # up to so many, the counts are written into the cells


def confusion_picture(
    table: Sequence[Sequence[int]], classes: Sequence[str], title: str, theme: Theme
) -> bytes:
    """A confusion matrix: a row for each true class, each cell its share of the row.

    Args:
        table: Counts ``(classes, classes)``: rows are the true classes, columns the answers.
        classes: Names of the classes.
        title: What is shown.
        theme: Colours.

    Returns:
        A PNG.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(table, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    count = len(counts)
    longest = max((len(name) for name in classes), default=1) if count <= NAMED else 3
    side = 150 + (26 * count if count <= NAMED else 320)
    colors = LinearSegmentedColormap.from_list("confusion", [theme.raised, theme.accent])
    with drawing(theme):
        figure, axes = one_axes(max(260, side + 6 * min(longest, 24)), max(220, side), title)
        axes.imshow(shares, cmap=colors, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.set_xlabel("answer")
        axes.set_ylabel("true class")
        if count <= NAMED:
            names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
            axes.set_xticks(
                range(count),
                names,
                rotation=45 if longest > 4 else 0,
                ha="right" if longest > 4 else "center",
            )
            axes.set_yticks(range(count), names)
        if count <= COUNTED:
            for row, column in np.ndindex(count, count):
                color = theme.page if shares[row, column] > 0.5 else theme.ink
                axes.text(
                    column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=7.5
                )
        return to_png(figure)
