"""The parts of a pretraining's page. Each takes what it shows; what is absent becomes a plain remark."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation.probe_results import verdict
from worldmodel.masks import MaskConfig, token_counts
from worldmodel.models.files import from_dict
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.report.feature_film import Film, Painter, side_by_side
from worldmodel.report.figures import Rows
from worldmodel.report.markup import Html, div, el, join, p, span
from worldmodel.report.parts import FilmRow, film, legend, looping, remark, table
from worldmodel.report.pretraining_run import Facts, PretrainingRun
from worldmodel.report.retrieval import ClipBank
from worldmodel.report.strips import activity, blank_hidden, spread
from worldmodel.report.training_curves import points_of
from worldmodel.training.diagnosis import SETTLED, diagnose

#: Encoders on the page: name, note, encoder.
Encoders = Sequence[tuple[str, str, VideoEncoder]]
_COLUMNS = 8


def key_facts(run: PretrainingRun, facts: Facts, rows: Rows, encoder: VideoEncoder | None) -> Html:
    """The run in numbers."""
    loop, done = run.config.get("loop", {}), run.json("done.json") or {}
    steps = int(rows[-1]["step"]) + 1 if rows else 0
    samples = steps * int(loop.get("batch_size", 0))
    clip_seconds = encoder.config.frames / facts.clip_fps if encoder and facts.clip_fps else 0.0
    seconds = done.get("seconds", run.json("seconds.json"))
    found: list[tuple[str, str]] = []
    if encoder is not None:
        c = encoder.config
        parameters = sum(value.numel() for value in encoder.parameters())
        found.append(("Encoder", f"{_short(parameters)} parameters, {c.depth} blocks of width {c.width}"))
        clip = f"{c.frames} frames of {c.image_size} px" + (f", {clip_seconds:.1f} s" if clip_seconds else "")
        grid = c.grid
        found.append(("Clip", f"{clip}; {grid.steps} × {grid.rows} × {grid.columns} tokens"))
    total = int(loop.get("steps", steps))
    found.append(("Steps", f"{steps:,}" if done or steps == total else f"{steps:,} of {total:,}"))
    if samples:
        found.append(("Clips seen", f"{samples:,}"))
    if samples and clip_seconds:
        seen = samples * clip_seconds / 3600
        passes = f", {seen / facts.hours:.1f} × the {_hours(facts.hours)} there are" if facts.hours else ""
        found.append(("Video seen", f"{_hours(seen)}{passes}"))
    if isinstance(seconds, int | float) and seconds > 0:
        speed = f", {samples / seconds:.3g} clips/s in all" if samples else ""
        found.append(("Time", f"{_hours(seconds / 3600)}{speed}"))
    loss, mean = _last(rows, "loss"), _last(rows, "predict_mean_loss")
    if loss is not None:
        found.append(("Loss", f"{loss:.3f}" + (f"; {mean:.3f} by predicting the mean" if mean else "")))
    items = [el("div", None, el("dt", None, name), el("dd", None, value)) for name, value in found]
    return el("dl", {"class": "facts"}, *items)


def _last(rows: Rows, key: str, share: float = 0.05) -> float | None:
    """Mean over the last rows of a metric."""
    _, values = points_of(rows, key)
    return float(np.mean(values[-max(1, round(len(values) * share)) :])) if values else None


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def diagnosis(rows: Rows, config: Mapping[str, Any]) -> Html:
    """What the monitors warn of; nothing while too little is known."""
    if sum("token_std" in row for row in rows) < SETTLED:
        return Html("")
    try:
        found = diagnose(rows, config)
    except KeyError as error:
        return remark(f"Left out: the monitors' diagnosis, because metrics.jsonl lacks {error} in some rows.")
    if not found:
        return el("p", {"class": "well"}, "The monitors found no sign of collapse.")
    listed = el("ul", None, *[el("li", None, warning) for warning in found])
    return div("warnings", el("b", None, "The monitors warn:"), listed)


def sources(facts: Facts) -> Html:
    """What was trained on, and what was skipped."""
    if not facts.sources:
        return remark("Left out: the sources, because the run kept no report/facts.json.")
    rows = [
        [s.name, f"{s.videos:,}", _hours(s.hours) if s.hours else "–", f"{s.share:.0%}"]
        for s in facts.sources
    ]
    parts = [table(["Source", "Videos", "Length", "Share of clips"], rows)]
    if facts.skipped:
        count = len(facts.skipped)
        summary = el("summary", None, f"{count} {'file' if count == 1 else 'files'} skipped")
        listed = table(["File", "Reason"], [list(pair) for pair in facts.skipped[:200]], numbers_from=2)
        more = [p(f"{count - 200} more are in report/facts.json.")] if count > 200 else []
        parts.append(el("details", None, summary, listed, *more))
    else:
        parts.append(el("p", {"class": "gap small"}, "No file was skipped."))
    return join(parts)


@dataclass(frozen=True)
class Painted:
    """A film, and each encoder's features of it as pictures ``(L, 3, H, W)``, by the encoder's name."""

    film: Film
    features: Mapping[str, np.ndarray]


def paint(encoders: Encoders, bank: ClipBank | None, films: Sequence[Film], scale: float) -> list[Painted]:
    """Features of films as pictures; each film has a basis of its own.

    Raises:
        ValueError: The encoder does not take such clips, or its features are not finite.
    """
    clips: Any = bank.frames if bank is not None else []
    painters = {name: Painter.of(encoder, clips, scale=scale) for name, _, encoder in encoders}
    return [Painted(shown, {name: p.paint([shown])[0] for name, p in painters.items()}) for shown in films]


def feature_video(painted: Painted) -> Html:
    """A film beside its features, moving; the names stand above the panels."""
    shown = painted.film
    moving = side_by_side([shown.frames, *painted.features.values()])
    names = [span("panel", name) for name in ("Video", *painted.features)]
    fps = max(1, round(shown.fps)) if shown.fps else 8
    return el(
        "figure",
        {"class": "wide-video"},
        div("panels", *names),
        looping(moving, f"{shown.name} and its features", fps),
    )


def feature_strips(painted: Sequence[Painted], notes: Mapping[str, str]) -> Html:
    """Filmstrips: frames on top, each encoder's features below."""
    groups = []
    for item in painted:
        shown = item.film
        columns = spread(len(shown.frames), _COLUMNS)
        times = [f"{shown.start + i / shown.fps:.1f} s" if shown.fps else f"frame {i}" for i in columns]
        rows = [FilmRow(shown.name, "frames", [shown.frames[i] for i in columns], times)]
        for name, colors in item.features.items():
            rows.append(FilmRow(name, notes.get(name, ""), [colors[i] for i in columns]))
        groups.append(div("film-group", film(rows)))
    return join(groups)


def masks(config: Mapping[str, Any], encoder: VideoEncoder, clip: np.ndarray, source: str) -> Html:
    """A clip, and what the context encoder sees of it under each mask."""
    found = config.get("mask")
    if not isinstance(found, Mapping) or not found:
        return remark("Left out: the masks, because config.json has none.")
    steps = spread(len(clip), _COLUMNS)
    rows = [FilmRow("Full clip", source, [clip[i] for i in steps], [f"frame {i + 1}" for i in steps])]
    for name, values in found.items():
        mask = from_dict(MaskConfig, dict(values), "config.json")
        seen = blank_hidden(clip, mask, encoder.grid, int(config.get("seed", 0)))
        context, target = token_counts(mask, encoder.grid)
        total = encoder.grid.steps * encoder.grid.rows * encoder.grid.columns
        note = f"{context / total:.0%} of the tokens seen, {target} to predict"
        rows.append(FilmRow(name.replace("_", " "), note, [seen[i] for i in steps], holes=True))
    return film(rows)


def probe_table(run: PretrainingRun) -> Html:
    """Scores of probes with their intervals, and what the comparison with the untrained encoder says."""
    probes = run.probes()
    if not probes:
        return remark(
            "No probe has been run into this directory (probe*/results.json); see: worldmodel probe --help"
        )
    rows = [[f"{q.study}: {q.kind}", q.encoder, q.text, q.interval, f"{q.count:,}"] for q in probes]
    heads = [
        "Probe",
        "Encoder",
        "R²" if all(q.number for q in probes) else "Accuracy",
        "95% interval",
        "Test samples",
    ]
    verdicts = [
        el("li", None, verdict(f"{study}: {kind}", found))
        for study, results in run.probe_files().items()
        for kind, found in results["probes"].items()
        if "comparison" in found
    ]
    listed = [el("ul", {"class": "small gap"}, *verdicts)] if verdicts else []
    return join([table(heads, rows, numbers_from=2), *listed])


def repeat(run: PretrainingRun, facts: Facts) -> Html:
    """The command, what the machine decided, and the whole configuration."""
    command = (
        facts.command or f"worldmodel pretrain  # settings: {shlex.quote(str(run.path / 'config.json'))}"
    )
    choices = run.json("machine.json") or {}
    parts = [el("code", None, command)]
    if choices:
        parts += [
            el("p", {"class": "gap"}, "Chosen when the run began, by looking at the machine:"),
            table([], [[str(k), str(v)] for k, v in choices.items()], numbers_from=2),
        ]
    parts.append(
        el(
            "details",
            None,
            el("summary", None, "The whole configuration"),
            el("code", None, as_yaml(run.config)),
        )
    )
    return join(parts)


def as_yaml(value: Any, indent: int = 0) -> str:
    """JSON values as the YAML that a configuration file would have."""
    if not isinstance(value, dict):
        return json.dumps(value)
    lines = []
    for key, item in value.items():
        nested = isinstance(item, dict) and item
        text = "\n" + as_yaml(item, indent + 2) if nested else " " + as_yaml(item)
        lines.append(f"{' ' * indent}{key}:{text}")
    return "\n".join(lines) if lines else "{}"


def films_of(bank: ClipBank, count: int) -> list[Film]:
    """The clips of a bank in which most moves, one per video as long as there are others."""
    scores = [activity(clip) for clip in bank.frames]
    order = sorted(range(len(bank)), key=lambda i: (-scores[i], i))
    first = {bank.names[i]: i for i in reversed(order)}
    ranked = [i for i in order if first[bank.names[i]] == i] + [i for i in order if first[bank.names[i]] != i]
    return [Film(bank.names[i], bank.frames[i], bank.fps, bank.starts[i]) for i in ranked[:count]]


def plot_legend() -> Html:
    """How to read the curves."""
    return legend([("running mean", "accent", False), ("every logged step", "line", False)])
