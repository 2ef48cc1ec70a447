"""What a probing study found: scores with intervals, the comparison with the control, and both as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import write_bytes, write_json
from worldmodel.evaluation.probes import Stage
from worldmodel.evaluation.scores import (
    classification,
    compare,
    compare_regression,
    mean_interval,
    regression,
)
from worldmodel.evaluation.splits import Labelled


def summarise(
    labelled: Labelled,
    rows: list[int],
    stages: Mapping[str, Mapping[str, Stage]],
    encoder_parameters: int,
) -> dict[str, Any]:
    """Scores of every probe of every encoder. Only here are the test's labels looked at.

    Args:
        labelled: The labelled set.
        rows: Positions of the test samples that were answered.
        stages: By encoder (``pretrained`` and, with a control, ``untrained``), then by name of the stage.
        encoder_parameters: For the probes' sizes relative to the encoder's.

    Returns:
        ``{kind: {encoder: scores, "comparison": ...}}``, JSON values.
    """
    truth, groups = labelled.targets(rows).numpy(), labelled.groups(rows)
    kinds = [name for name in stages["pretrained"] if "/" not in name]
    return {
        kind: _kind(kind, truth, groups, stages, bool(labelled.classes), encoder_parameters) for kind in kinds
    }


def _kind(
    kind: str,
    truth: np.ndarray,
    groups: np.ndarray,
    stages: Mapping[str, Mapping[str, Stage]],
    classes: bool,
    encoder_parameters: int,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    answers = {encoder: found[kind].answers.numpy() for encoder, found in stages.items()}
    for encoder, found in stages.items():
        scores = (
            classification(truth, answers[encoder], groups)
            if classes
            else regression(truth[:, 0], answers[encoder][:, 0], groups)
        )
        about = found[kind].about
        share = about["parameters"] / encoder_parameters
        result[encoder] = {
            **scores,
            **about,
            "parameter_share": share,
            "low_shot": _low_shot(kind, truth, found),
        }
    if "untrained" in answers:
        first, second = answers["pretrained"], answers["untrained"]
        if classes:
            right = first.argmax(axis=1) == truth, second.argmax(axis=1) == truth
            result["comparison"] = compare(*right, groups)
        else:
            result["comparison"] = compare_regression(truth[:, 0], first[:, 0], second[:, 0], groups)
    return result


def _low_shot(kind: str, truth: np.ndarray, found: Mapping[str, Stage]) -> dict[str, Any]:
    """Mean accuracy and its interval over the draws, by size of the training set."""
    accuracies: dict[str, list[float]] = {}
    for name, stage in found.items():
        own, _, rest = name.partition("/")
        if own == kind and rest:
            right = stage.answers.numpy().argmax(axis=1) == truth
            accuracies.setdefault(rest.partition("/")[0], []).append(float(right.mean()))
    return {shots: mean_interval(values) for shots, values in accuracies.items()}


def table(results: dict[str, Any]) -> str:
    """The results as a table for a terminal, with a verdict where there is a control."""
    probes = results["probes"]
    number = "R^2" if results["target"] == "number" else "accuracy"
    head = ("probe", "encoder", number, "95%", "balanced", "chosen", "parameters")
    rows: list[tuple[str, ...]] = [head]
    for kind, found in probes.items():
        for encoder in ("pretrained", "untrained"):
            if encoder in found:
                rows.append(_row(kind, encoder, found[encoder]))
                rows += _low_shot_rows(kind, encoder, found[encoder])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(
        [_headline(results), "", *lines, "", *(verdict(kind, found) for kind, found in probes.items())]
    )


def _headline(results: dict[str, Any]) -> str:
    first = next(iter(results["probes"].values()))["pretrained"]
    about = f"{results['train']} training and {results['test']} test samples"
    if "majority" in first:
        about += f", {len(results['classes'])} classes, most frequent class {first['majority']:.1%}"
    skipped = f", {len(results['unreadable'])} left out as unreadable" if results["unreadable"] else ""
    return f"{about}{skipped}; encoder: {results['weights']} weights, {results['encoder_parameters']:,} parameters"


def _row(kind: str, encoder: str, scores: dict[str, Any]) -> tuple[str, ...]:
    value = scores.get("accuracy", scores.get("r2"))
    low, high = scores["interval"]
    shown, bounds = (
        (f"{value:.1%}", f"{low:.1%} to {high:.1%}")
        if "accuracy" in scores
        else (f"{value:.3f}", f"{low:.3f} to {high:.3f}")
    )
    balanced = f"{scores['balanced_accuracy']:.1%}" if "balanced_accuracy" in scores else ""
    chosen = " ".join(f"{name}={setting:g}" for name, setting in scores["chosen"].items())
    size = (
        f"{scores['parameters']:,} ({scores['parameter_share']:.1%} of the encoder's)"
        if scores["parameters"]
        else "0"
    )
    return kind, encoder, shown, bounds, balanced, chosen, size


def _low_shot_rows(kind: str, encoder: str, scores: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = list[tuple[str, ...]]()
    for shots, found in scores["low_shot"].items():
        amount = f"{shots} per class" if float(shots) >= 1 else f"{float(shots):.0%} of the labels"
        bounds = "{:.1%} to {:.1%}".format(*found["interval"]) if found["interval"] else ""
        draws = f"{len(found['draws'])} draws"
        rows.append((f"{kind}, {amount}", encoder, f"{found['mean']:.1%}", bounds, "", draws, ""))
    return rows


def verdict(kind: str, found: dict[str, Any]) -> str:
    """Whether the pretrained encoder beats the untrained one, in a sentence."""
    if "comparison" not in found:
        return f"{kind}: no control was run; control=true compares with the same encoder untrained"
    comparison = found["comparison"]
    low, high = comparison["interval"]
    if "mcnemar" in comparison:
        test = comparison["mcnemar"]
        evidence = (
            f"difference {comparison['difference']:+.1%}, 95% {low:+.1%} to {high:+.1%}; only pretrained right "
            f"{test['only_first']}, only untrained right {test['only_second']}, McNemar p = {test['p']:.2g}"
        )
        if comparison.get("group_p") is not None:
            evidence += f", by groups p = {comparison['group_p']:.2g}"
        apart = "do not overlap" if comparison["intervals_apart"] else "overlap"
        evidence += f"; the two intervals {apart}"
    else:
        evidence = f"difference of R^2 {comparison['difference']:+.3f}, 95% {low:+.3f} to {high:+.3f}"
    says = "beats" if comparison["better"] else "does NOT clearly beat"
    return f"{kind}: the pretrained encoder {says} the untrained one ({evidence})"


def write_results(
    path: Path, results: dict[str, Any], labelled: Labelled, rows: list[int], stages: Mapping[str, Stage]
) -> None:
    """Write ``results.json``, ``report.txt`` and ``predictions.csv`` (one line per test sample).

    Args:
        path: The run's directory.
        results: All that was found.
        labelled, rows: The test samples that were answered.
        stages: The pretrained encoder's.
    """
    kinds = list(results["probes"])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["name", "label", *kinds])
    for position, row in enumerate(rows):
        sample = labelled.samples[row]
        answers = [stages[kind].answers[position] for kind in kinds]
        said = [
            labelled.classes[int(a.argmax())] if labelled.classes else f"{float(a[0]):.6g}" for a in answers
        ]
        writer.writerow([sample.name, sample.label, *said])
    write_bytes(path / "predictions.csv", file.getvalue().encode())
    write_bytes(path / "report.txt", (table(results) + "\n").encode())
    write_json(path / "results.json", results)
