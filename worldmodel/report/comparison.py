"""Several runs on one page: a table with what their configurations differ in, and their curves side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import write_bytes
from worldmodel.report.figures import Line, Rows, curves
from worldmodel.report.markup import Html, div, el, join, p, span
from worldmodel.report.page import page, section
from worldmodel.report.parts import attempt, remark, table, themed
from worldmodel.report.pretraining_run import PretrainingRun, Probe
from worldmodel.report.theme import LIGHT
from worldmodel.report.training_curves import points_of, running_mean

#: Told apart by most colour-blind people, and readable on light and dark (after Okabe and Ito, 2008).
COLORS = ("#d4222a", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a7a5c", "#7c869a")
#: Drawn side by side: title, key, whether noisy.
_CURVES = (
    ("Loss", "loss", True),
    ("Loss / predicting the mean", "loss_ratio", False),
    ("Spread of features (std of tokens)", "token_std", False),
    ("Effective rank of tokens", "token_rank", False),
    ("Effective rank of clips", "clip_rank", False),
    ("Gradient norm", "grad_norm", True),
)
#: Settings that say where a run is or how it is logged, not what it is.
_PLACES = ("out", "device", "threads", "workers")
_LAST = 0.05
#: Figures of the last monitored step, with their digits.
_SHOWN = (("loss_ratio", 2), ("token_std", 2), ("token_rank", 1), ("clip_rank", 1))


@dataclass(frozen=True)
class Compared:
    """A run on the page: its name, its rows, what it differs in, and its probes."""

    name: str
    rows: Rows
    differences: Mapping[str, Any]
    probes: Sequence[Probe]
    color: str


def find_runs(directory: str | Path) -> list[Path]:
    """Directories with ``config.json`` and ``metrics.jsonl``, one or two levels down, in order of their names."""
    root = Path(directory)
    files = [*root.glob("*/metrics.jsonl"), *root.glob("*/*/metrics.jsonl")]
    return sorted(file.parent for file in files if (file.parent / "config.json").is_file())


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"loop.lr": 0.001}``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each configuration the settings that are not the same in all; one that is absent reads as None."""
    flats = [flat(config) for config in configs]
    keys = list(dict.fromkeys(key for values in flats for key in values if key.split(".")[0] not in _PLACES))
    unlike = [key for key in keys if len({json.dumps(values.get(key)) for values in flats}) > 1]
    return [{key: values.get(key) for key in unlike} for values in flats]


def write_comparison(directory: str | Path) -> Path:
    """Write ``report.html`` and ``curves.png`` into a directory of runs.

    Raises:
        FileNotFoundError: There are not two runs in it.
        ValueError: A run's configuration is damaged.
        OSError: The disk is full or not writable.
    """
    root = Path(directory)
    runs = [PretrainingRun(path) for path in find_runs(root)]
    if len(runs) < 2:
        raise FileNotFoundError(
            f"{root} holds {len(runs)} runs (directories with config.json and metrics.jsonl); a comparison needs two"
        )
    unlike = differences([run.config for run in runs])
    compared, trouble = [], []
    for i, (run, own) in enumerate(zip(runs, unlike, strict=True)):
        try:
            rows = _with_ratio(run.metrics())
            probes = run.probes()
        except ValueError as error:
            trouble.append(str(error))
            continue
        name = run.path.relative_to(root).as_posix()
        compared.append(Compared(name, rows, own, probes, COLORS[i % len(COLORS)]))
    file = root / "report.html"
    write_bytes(file, _page(root.name, compared, len(runs), trouble).encode())
    write_bytes(root / "curves.png", curves_of(compared, "Loss", "loss", True, LIGHT))
    return file


def _page(name: str, runs: Sequence[Compared], count: int, trouble: Sequence[str]) -> str:
    return page(
        f"{len(runs)} runs compared: {name}"
        if len(runs) == count
        else f"{len(runs)} of {count} runs compared: {name}",
        "One row for each run, with only the settings in which they differ.",
        *[remark(f"Left out: {text}") for text in trouble],
        section("Figures", attempt("the table", lambda: figures_table(runs))),
        section("Probes", attempt("the probes", lambda: probes_table(runs))),
        section(
            "Curves",
            p(
                "Losses of different objectives or target normalisations have different scales: compare the ratio to "
                "the loss of predicting the mean, and above all the probes."
            ),
            key(runs),
            div(
                "plots",
                *[_plot(runs, *curve) for curve in _CURVES if _any_has(runs, curve[1])],
            ),
        ),
    )


def _any_has(runs: Sequence[Compared], name: str) -> bool:
    return any(points_of(run.rows, name)[0] for run in runs)


def _with_ratio(rows: Rows) -> list[dict[str, Any]]:
    """Rows with ``loss_ratio`` where both losses were logged."""
    return [
        {**row, "loss_ratio": row["loss"] / row["predict_mean_loss"]}
        if row.get("predict_mean_loss") and row.get("loss") is not None
        else row
        for row in rows
    ]


def figures_table(runs: Sequence[Compared]) -> Html:
    """Last steps' figures of each run: means over the last rows, with two standard errors for the loss."""
    settings = list(runs[0].differences) if runs else []
    heads = ["Run", *settings, "Steps", "Loss", "Loss / mean", "Std", "Rank", "Clip rank"]
    rows = []
    for run in runs:
        steps = f"{int(run.rows[-1]['step']) + 1:,}" if run.rows else "–"
        cells = [_last(run.rows, name, digits) for name, digits in _SHOWN]
        rows.append(
            [_named(run), *[_setting(run.differences[k]) for k in settings], steps, _loss(run.rows), *cells]
        )
    return table(heads, rows, numbers_from=1 + len(settings))


def _named(run: Compared) -> Html:
    return join(
        [el("i", {"class": "swatch", "style": f"background: {run.color}"}), Html(el("b", None, run.name))]
    )


def _setting(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _last(rows: Rows, name: str, digits: int) -> str:
    _, values = points_of(rows, name)
    return f"{values[-1]:.{digits}f}" if values else "–"


def _loss(rows: Rows) -> str:
    """Mean over the last rows, and twice its standard error: the noise of batches, not of seeds."""
    _, values = points_of(rows, "loss")
    tail = np.array(values[-max(3, round(len(values) * _LAST)) :])
    if not len(tail):
        return "–"
    error = 2 * tail.std(ddof=1) / len(tail) ** 0.5 if len(tail) > 1 else 0.0
    return f"{tail.mean():.3f} ± {error:.3f}"


def probes_table(runs: Sequence[Compared]) -> Html:
    """Scores of the probes, a column for each, with their 95% intervals."""
    columns = list(dict.fromkeys((q.study, q.kind, q.encoder) for run in runs for q in run.probes))
    if not columns:
        return remark("No probe has been run into these directories (probe*/results.json).")
    rows = []
    for run in runs:
        by_name = {(q.study, q.kind, q.encoder): q for q in run.probes}
        rows.append([_named(run), *[_score(by_name.get(column)) for column in columns]])
    heads = [
        "Run",
        *[f"{study}: {kind}" + (", untrained" if e == "untrained" else "") for study, kind, e in columns],
    ]
    return table(heads, rows)


def _score(probe: Probe | None) -> Html:
    if probe is None:
        return Html("–")
    return join([Html(probe.text), span("small", probe.interval)])


def key(runs: Sequence[Compared]) -> Html:
    """Names of the lines."""
    items = [el("span", None, el("i", {"style": f"border-color: {run.color}"}), run.name) for run in runs]
    return div("legend", *items)


def _plot(runs: Sequence[Compared], title: str, name: str, noisy: bool) -> Html:
    return themed(
        lambda theme: curves_of(runs, title, name, noisy, theme, legend=False), f"{title} of all runs"
    )


def curves_of(
    runs: Sequence[Compared], title: str, name: str, noisy: bool, theme: Any, legend: bool = True
) -> bytes:
    """One metric of all runs, as a PNG."""
    lines = []
    for run in runs:
        x, y = points_of(run.rows, name)
        if x:
            lines.append(Line(run.name, x, running_mean(y) if noisy and len(x) > 30 else y, run.color))
    return curves(title, lines, theme, legend=legend)
