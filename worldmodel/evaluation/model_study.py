"""All that is measured of a world model on data, in one call, and the table that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.open_loop import BASELINES, HORIZONS, open_loop
from worldmodel.evaluation.plannability import Cost, Distances, plannability
from worldmodel.evaluation.sensitivity import action_sensitivity
from worldmodel.evaluation.state_probes import MLPProbeConfig, Targets, probe_states
from worldmodel.evaluation.surprise import EventSet, score_events
from worldmodel.evaluation.trajectories import Imagination, Trajectory, flat
from worldmodel.training.monitors import effective_rank

#: What tables call the costs whose order is compared with that of true distances.
COSTS = {
    "plannability": "cost vs distance",
    "plannability_imagined": "the same, imagined",
    "plannability_value": "value head vs distance",
}
#: Steps that the cost of imagined latents is measured after, or fewer where episodes are short.
IMAGINED = 10


@dataclass(frozen=True)
class Plan:
    """What is measured; the same for the model and its control.

    Attributes:
        held_out, train: Positions are the same for every model; their latents are each model's own.
        targets: What probes read; None: no probes.
        distances: The true distance; None: no plannability.
        events: For surprise; None: none.
        value: Of the model's value head; None: it has none.
        action_std, action_names: Of the training's actions.
    """

    horizons: Sequence[int] = HORIZONS
    targets: Targets | None = None
    probe: MLPProbeConfig = field(default_factory=MLPProbeConfig)
    distances: Distances | None = None
    pairs: int = 3000
    events: EventSet | None = None
    action_std: Sequence[float] = ()
    action_names: Sequence[str] = ()
    seed: int = 0
    value: Cost | None = None


def measure(
    model: Imagination, held_out: Sequence[Trajectory], train: Sequence[Trajectory], plan: Plan
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Everything that ``plan`` asks for: figures as JSON values, and arrays for pictures.

    Raises:
        ValueError: The episodes are too few or too short, or a latent is not finite.
    """
    latents = torch.cat([episode.latents for episode in held_out])
    if not torch.isfinite(latents).all():
        raise ValueError(
            "the model's latents are not finite; was its training interrupted, or did it diverge?"
        )
    rows = flat(latents)
    results: dict[str, Any] = {
        "latent": {
            "tokens": latents.shape[1],
            "width": latents.shape[2],
            "std": float(rows.std(dim=0).mean()),
            "effective_rank": effective_rank(rows),
            "largest_rank": min(len(rows) - 1, rows.shape[1]),
        },
        "open_loop": open_loop(model, held_out, train, plan.horizons),
        "sensitivity": action_sensitivity(
            model, held_out, plan.action_std, plan.action_names, seed=plan.seed
        ),
    }
    arrays: dict[str, np.ndarray] = {}
    if plan.targets is not None:
        results["probes"], answers = probe_states(held_out, train, plan.targets, plan.probe, plan.seed)
        arrays |= {f"probes.{name}": values for name, values in answers.items()}
    if plan.distances is not None:
        found, points = plannability(held_out, plan.distances, plan.pairs, plan.seed)
        results["plannability"] = found
        arrays |= {f"plannability.{name}": values for name, values in points.items()}
        horizon = min(IMAGINED, max(e.steps for e in held_out) // 2)
        imagined, _ = plannability(
            held_out, plan.distances, plan.pairs, plan.seed, model=model, horizon=horizon
        )
        results["plannability_imagined"] = {"horizon": horizon, **imagined}
        if plan.value is not None:
            results["plannability_value"], _ = plannability(
                held_out, plan.distances, plan.pairs, plan.seed, cost_of=plan.value
            )
    if plan.events is not None:
        results["surprise"], traces = score_events(model, held_out, plan.events)
        arrays |= {f"surprise.{name}": values for name, values in traces.items()}
    return results, arrays


def table(results: Mapping[str, Any]) -> str:
    """What the command prints: a column for the model, and one for its control."""
    models: Mapping[str, Any] = results["models"]
    lines = [["", *models, "baselines"]]
    lines += [[name, *cells, note] for name, cells, note in rows_of(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(text)


def card_of(results: Mapping[str, Any]) -> str:
    """The table in Markdown, for a model's card: the model beside its baselines."""
    lines = ["| | this model | beside it |", "|---|---|---|"]
    for name, cells, note in rows_of(results):
        lines.append(f"| {name.strip()} | {cells[0]} | {note} |")
    about = (
        f"{results['held_out']} held-out episodes; probes and baselines fitted to {results['train']} others; 95% "
        "intervals over episodes."
    )
    notes = [f"Note: {note}." for note in results["notes"]]
    return "\n".join([about, *notes, "", *lines])


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, list[str], str]]:
    """What was measured, its figure for each model, and that of the baselines."""
    models = list(results["models"].values())
    first = models[0]
    rows: list[tuple[str, list[str], str]] = []
    for h, at in first["open_loop"]["at"].items():
        unit = "step" if h == "1" else "steps"
        rows.append(
            (
                f"open-loop error, {h} {unit}",
                [f"{m['open_loop']['at'][h]['model']:.3f}" for m in models],
                ", ".join(f"{name.replace('_', ' ')} {at[name]:.3f}" for name in BASELINES),
            )
        )
        rows.append(
            (
                f"  over that of copy last, {h} {unit}",
                [_value(m["open_loop"]["at"][h]["ratio"]["copy_last"]) for m in models],
                "1",
            )
        )
    for kind in first.get("probes", {}):
        for target in first["probes"][kind]["targets"]:
            cells = []
            for m in models:
                score = m["probes"][kind]["targets"][target]
                cells.append(f"{score['r2']:.3f} {_interval(score['interval'])} r {score['pearson']:.3f}")
            rows.append((f"R2 of {target}, {kind}", cells, "mean 0"))
    for key, what in COSTS.items():
        if key in first:
            for part in ("within", "across"):
                if part in first[key]:
                    pixels = results.get("pixels", {}).get(part)
                    note = f"pixels {_value(pixels, 'rho')}" if pixels and key == "plannability" else ""
                    name = f"{what}, rho {'within episodes' if part == 'within' else 'across them'}"
                    cells = [_value(m[key][part], "rho") if key in m else "" for m in models]
                    rows.append((name, cells, note))
    chance = first["sensitivity"]["identified"]["chance"]
    rows.append(
        (
            "true action identified",
            [_value(m["sensitivity"]["identified"]) for m in models],
            f"chance {chance:.2f}",
        )
    )
    rows.append(
        ("error with wrong actions / true", [_value(m["sensitivity"]["error_ratio"]) for m in models], "1")
    )
    rows.append(
        (
            "effective rank of latents",
            [f"{m['latent']['effective_rank']:.1f}" for m in models],
            f"at most {first['latent']['largest_rank']}",
        )
    )
    surprise = first.get("surprise", {"events": {}, "unavailable": {}})
    for event, found in surprise["events"].items():
        note = ", ".join(
            f"{label} {found['scorers'][name]['auroc']['value']:.2f}"
            for name, label in (("copy_last", "copy last"), ("pixels", "pixels"))
        )
        cells = [
            _value(m["surprise"]["events"][event]["scorers"]["model"]["auroc"], digits=2) for m in models
        ]
        rows.append((f"surprise at {event}, AUROC", cells, note))
    rows += [
        (f"surprise at {event}", ["not available"] * len(models), why)
        for event, why in surprise["unavailable"].items()
    ]
    return rows


def _value(found: Mapping[str, Any], key: str = "value", digits: int = 3) -> str:
    return f"{found[key]:.{digits}f} {_interval(found.get('interval'), digits)}".rstrip()


def _interval(interval: Sequence[float] | None, digits: int = 3) -> str:
    return "" if interval is None else f"({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
