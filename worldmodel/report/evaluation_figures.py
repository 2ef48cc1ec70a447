"""Pictures of a world model's evaluation: errors, probes, costs and surprise, each with what it is compared to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from worldmodel.evaluation.surprise import BEFORE, SPAN
from worldmodel.report.theme import Theme, drawing, new_figure, one_axes, to_png

BLUE, GREEN = "#0072b2", "#009e73"
#: Predictors of the open-loop plot: name in results, label, colour, dashes.
_LINES = (
    ("copy_last", "nothing moves", "neutral", (0, (3, 2))),
    ("mean", "mean of the training latents", "muted", (0, (1, 1.5))),
    ("linear", "linear dynamics", BLUE, "-"),
    ("model", "world model", "accent", "-"),
)
_SHOWN_TARGETS = 8
_EVENT_TITLES = {
    "teleport": "Teleport",
    "colour": "Colours change",
    "freeze": "Frozen picture",
    "wall": "Through a wall",
}


def open_loop_picture(result: Mapping[str, Any], theme: Theme) -> bytes:
    """Error over the number of imagined steps, with intervals over episodes, beside the baselines."""
    last = list(result["at"])[-1]
    ratio = result["at"][last]["ratio"]["copy_last"]["value"]
    title = f"After {last} steps the error is {ratio:.0%} of guessing that nothing moves"
    if ratio >= 1:
        title = f"After {last} steps the model is no better than guessing that nothing moves"
    with drawing(theme):
        figure, axes = one_axes(560, 320, title)
        steps = result["steps"]
        for name, label, color, dashes in _LINES:
            error = result["error"][name]
            shown = getattr(theme, color, color)
            # One step has no length; a marker shows it.
            marker = "o" if len(steps) == 1 else ""
            axes.plot(steps, error["rms"], color=shown, linestyle=dashes, label=label, marker=marker)
            if error["interval"]:
                low, high = np.transpose(error["interval"])
                axes.fill_between(steps, low, high, color=shown, alpha=0.15, linewidth=0)
        axes.set_xlabel("model steps imagined")
        axes.set_ylabel("RMS error of the latent (0: that of the true frame)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(handlelength=1.8, labelcolor=theme.ink, loc="best")
        return to_png(figure)


def probe_picture(
    results: Mapping[str, Any], arrays: Mapping[str, np.ndarray], theme: Theme, kind: str = "linear"
) -> bytes:
    """What a probe reads against the truth, a plot for each of the first targets."""
    found = results["probes"][kind]["targets"]
    names = list(found)[:_SHOWN_TARGETS]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    truth, answer = arrays["probes.truth"], arrays[f"probes.{kind}"]
    some = np.random.default_rng(0).permutation(len(truth))[:800]
    with drawing(theme):
        figure = new_figure(max(300, 210 * columns + 20), 215 * rows + 10)
        for i, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, i + 1)
            score = found[name]
            axes.set_title(f"{name}: R² {score['r2']:.2f}, r {score['pearson']:.2f}")
            both = np.concatenate([truth[some, i], answer[some, i]])
            ends = [float(both.min()), float(both.max())]
            axes.plot(ends, ends, color=theme.line, linewidth=1.2, zorder=1)
            axes.scatter(truth[some, i], answer[some, i], s=4, color=theme.accent, alpha=0.35, linewidths=0)
            axes.set_xlabel("true")
            if i % columns == 0:
                axes.set_ylabel(f"read by the {kind} probe")
            axes.grid(False)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        return to_png(figure)


def cost_picture(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray], theme: Theme) -> bytes:
    """Cost against true distance: the model's, its control's, and that of pixels; rho and medians by distance."""
    panels = [("World model", results["models"]["trained"]["plannability"], "plannability", theme.accent)]
    if "untrained" in results["models"]:
        control = results["models"]["untrained"]["plannability"]
        panels.append(("Untrained", control, "untrained.plannability", theme.neutral))
    if "pixels" in results:
        panels.append(("Pixels", results["pixels"], "pixels", theme.neutral))
    with drawing(theme):
        figure = new_figure(270 * len(panels) + 30, 285)
        for i, (name, found, prefix, color) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            low, high = found["all"]["interval"] or (float("nan"),) * 2
            axes.set_title(f"{name}: ρ {found['all']['rho']:.2f} ({low:.2f} to {high:.2f})")
            within = arrays[f"{prefix}.within"]
            true, cost = arrays[f"{prefix}.true"], arrays[f"{prefix}.cost"]
            for rows, label, marker in ((within, "same episode", "o"), (~within, "other episode", "x")):
                axes.scatter(
                    true[rows],
                    cost[rows],
                    s=7,
                    color=color if marker == "o" else theme.muted,
                    alpha=0.45,
                    linewidths=0 if marker == "o" else 0.6,
                    marker=marker,  # type: ignore[arg-type]
                    label=label,
                )
            middle = [(b["low"] + b["high"]) / 2 for b in found["all"]["bins"]]
            medians = [b["cost"][1] for b in found["all"]["bins"]]
            axes.plot(
                middle, medians, color=theme.ink, marker="o", markersize=3.5, linewidth=1.4, label="median"
            )
            axes.set_xlabel(f"{results['distance']} to the goal")
            axes.set_ylabel(
                "RMS difference of frames (grey levels)" if name == "Pixels" else "latent cost (RMS)"
            )
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            if i == 0:
                axes.legend(loc="lower right", handletextpad=0.3, labelcolor=theme.ink, markerscale=1.6)
        return to_png(figure)


def trace_picture(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray], theme: Theme) -> bytes:
    """Surprise around events, and in the same episodes unedited: medians and quartiles."""
    events = results["surprise"]["events"]
    steps = np.arange(-BEFORE, SPAN)
    with drawing(theme):
        figure = new_figure(230 * len(events) + 40, 245)
        first: Axes | None = None
        for i, (event, found) in enumerate(events.items()):
            axes = figure.add_subplot(1, len(events), i + 1, sharey=first)
            first = first or axes
            value = found["scorers"]["model"]["auroc"]["value"]
            axes.set_title(f"{_EVENT_TITLES.get(event, event)}: AUROC {value:.2f}")
            axes.axvspan(-0.5, SPAN - 0.5, color=theme.raised, linewidth=0)
            for part, color, label in (
                ("true", theme.neutral, "as it was"),
                ("edited", theme.accent, "edited"),
            ):
                rows = arrays[f"surprise.{event}.{part}"]
                seen = np.isfinite(rows).any(axis=0)
                low, middle, high = np.nanquantile(rows[:, seen], (0.25, 0.5, 0.75), axis=0)
                axes.fill_between(steps[seen], low, high, color=color, alpha=0.2, linewidth=0)
                axes.plot(steps[seen], middle, color=color, marker="o", markersize=2.5, label=label)
            axes.set_xlabel("steps from the event")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if i == 0:
                axes.set_ylabel("surprise (RMS of the latent)")
                axes.legend(loc="upper left", handlelength=1.4, labelcolor=theme.ink)
        return to_png(figure)


def auroc_picture(models: Mapping[str, Any], theme: Theme) -> bytes:
    """AUROC of each event with its interval, for the model, its control, and guesses that nothing moves."""
    rows: list[tuple[str, str, str, str]] = [("world model", "trained", "model", theme.accent)]
    if "untrained" in models:
        rows.append(("untrained model", "untrained", "model", theme.neutral))
    rows += [
        ("change of the latent", "trained", "copy_last", BLUE),
        ("change of pixels", "trained", "pixels", GREEN),
    ]
    events = models["trained"]["surprise"]["events"]
    spread = 0.7 / len(rows)
    with drawing(theme):
        title = "How well events are told from ordinary moments (0.5: chance)"
        figure, axes = one_axes(560, 70 + 74 * len(events), title)
        axes.axvline(0.5, color=theme.muted, linewidth=1, linestyle=(0, (3, 2)))
        for i, (label, model, scorer, color) in enumerate(rows):
            for place, event in enumerate(events):
                found = models[model]["surprise"]["events"][event]["scorers"][scorer]["auroc"]
                y = place + (i - (len(rows) - 1) / 2) * spread
                if found["interval"]:
                    axes.plot(found["interval"], [y, y], color=color, linewidth=1.6)
                axes.plot(
                    [found["value"]], [y], "o", color=color, markersize=5, label=label if place == 0 else None
                )
        axes.set_yticks(range(len(events)), [_EVENT_TITLES.get(event, event) for event in events])
        axes.set_ylim(len(events) - 0.45, -0.55)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("AUROC, with 95% interval over episodes")
        axes.grid(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, -0.02), handletextpad=0.2, labelcolor=theme.ink)
        return to_png(figure)


def comparison_picture(
    rows: Sequence[tuple[str, float, Sequence[float] | None]], title: str, label: str, theme: Theme
) -> bytes:
    """One figure of several models with its intervals."""
    with drawing(theme):
        figure, axes = one_axes(460, 70 + 26 * len(rows), title)
        for place, (_, value, interval) in enumerate(rows):
            if interval:
                axes.plot(interval, [place, place], color=theme.accent, linewidth=1.6)
            axes.plot([value], [place], "o", color=theme.accent, markersize=5)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        return to_png(figure)
