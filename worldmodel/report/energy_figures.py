"""Pictures of energies: how much higher those of unlikely futures are, clip by clip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldmodel.report.theme import Theme, drawing, new_figure, to_png

BINS = 25


def energy_picture(differences: Mapping[str, Mapping[str, np.ndarray]], theme: Theme) -> bytes:
    """Histograms of the differences of energies, one plot for each comparison.

    Args:
        differences: By comparison, then by model (``pretrained``, ``untrained``): energy of the unlikely twin minus
            that of the clip, ``(n,)``. Above zero, the model is right.
        theme: Colours.

    Returns:
        A PNG.
    """
    with drawing(theme):
        figure = new_figure(40 + 250 * len(differences), 230)
        for place, (name, models) in enumerate(differences.items(), 1):
            axes = figure.add_subplot(1, len(differences), place)
            axes.set_title(name)
            largest = max(float(np.abs(values).max()) for values in models.values()) or 1.0
            # An odd number of bins, so that ties lie in the middle of one, on neither side.
            edges = np.linspace(-largest, largest, BINS + 1).tolist()
            if "untrained" in models:
                axes.hist(models["untrained"], edges, color=theme.neutral, alpha=0.55, label="untrained")
            axes.hist(
                models["pretrained"],
                edges,
                histtype="step",
                color=theme.accent,
                linewidth=1.6,
                label="pretrained",
            )
            axes.axvline(0, color=theme.ink, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set_xlabel("energy of the unlikely - of the likely")
            if place == 1:
                axes.set_ylabel("clips")
                axes.legend(loc="upper left", labelcolor=theme.ink)
        return to_png(figure)
