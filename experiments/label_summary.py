"""Rows of the label-efficiency experiment, pooled over seeds, compared task by task, and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.statistics import wilson
from experiments.compare import compare, read_results
from experiments.stages import seconds_of
from worldmodel.atomic import read_json
from worldmodel.report.label_picture import METHODS

#: Who is compared with whom.
PAIRS = (
    ("vjepa", "untrained"),
    ("vjepa", "end_to_end"),
    ("vjepa_tuned", "untrained"),
    ("vjepa_tuned", "end_to_end"),
    ("transfer", "untrained"),
    ("transfer", "end_to_end"),
)


def pooled(runs: Mapping[int, Path]) -> dict[str, Any]:
    """One row from its runs by seed: successes over all tasks of all seeds, means of the probes.

    Wilson's interval is over tasks, as if those of several seeds were independent; ``by_seed`` shows how seeds differ.
    """
    results = {seed: read_results(str(path / "plan")) for seed, path in runs.items()}
    probes = [read_json(path / "probe.json") for path in runs.values()]
    by_seed = {str(seed): found["successes"] for seed, found in results.items()}
    tasks = [
        {"id": f"{seed}/{task['id']}", "success": task["success"]}
        for seed, found in results.items()
        for task in found["tasks"]
    ]
    first = next(iter(results.values()))
    trained = [seconds_of(path / "train") for path in runs.values()]
    played = [seconds_of(path / "plan") for path in runs.values()]
    return {
        "run": ", ".join(map(str, runs.values())),
        "suite": first["suite"],
        "seeds": list(runs),
        "successes": sum(by_seed.values()),
        "episodes": len(tasks),
        "interval": wilson(sum(by_seed.values()), len(tasks)),
        "by_seed": by_seed,
        **{name: mean_r2([probe[name] for probe in probes]) for name in ("encoder", "latent")},
        "seconds": {"train": sum(trained) / len(runs), "plan": sum(played) / len(runs)},
        "tasks": tasks,
    }


def mean_r2(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of R^2 over seeds; the interval is the bootstrap's over episodes for one seed, the range over several."""
    values = [score["r2"] for score in scores]
    interval = scores[0]["interval"] if len(scores) == 1 else [min(values), max(values)]
    return {"r2": float(np.mean(values)), "interval": list(interval)}


def controls(random: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """What random actions reach in a world, and what can be read from its pixels."""
    pixels: dict[str, Any] = {}
    for run in runs:
        found = read_json(run / "probe.json")
        pixels[found["inputs"]["data"]] = found["pixels"]  # the same for all rows on the same data
    answer: dict[str, Any] = {"pixels": mean_r2(list(pixels.values()))}
    if (random / "results.json").exists():
        played = read_results(str(random))
        answer["random"] = {key: played[key] for key in ("successes", "episodes", "interval")}
    return answer


def comparisons_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """V-JEPA's rows against both controls with the same actions, task by task.

    Raises:
        ValueError: Two rows played different tasks.
    """
    found = []
    by_name = {(row["world"], row["labels"], row["method"]): row for row in rows}
    for world, labels in dict.fromkeys((row["world"], row["labels"]) for row in rows):
        for a, b in PAIRS:
            pair = [by_name.get((world, labels, method)) for method in (a, b)]
            if pair[0] is None or pair[1] is None or pair[0]["seeds"] != pair[1]["seeds"]:
                continue
            result = compare({"a": dict(pair[0]), "b": dict(pair[1])})
            low, high = result["interval"]
            verdict = "beats" if low > 0 else "is beaten by" if high < 0 else "does not beat"
            found.append(
                {"world": world, "labels": labels, "a": a, "b": b, "verdict": verdict}
                | {key: result[key] for key in ("difference", "interval", "p")}
            )
    return found


def table(summary: Mapping[str, Any]) -> str:
    """Rows and comparisons as text."""
    head = "goals reached   95% interval   R2 of tokens   of latents   seconds"
    lines: list[str] = []
    for world, found in summary["worlds"].items():
        lines += ["", f"{world:34} actions of   {head}"]
        for row in (row for row in summary["rows"] if row["world"] == world):
            lines.append(
                f"  {METHODS[row['method']]:32} {row['labels']:>10}   {_reached(row)}   {row['encoder']['r2']:12.2f}   "
                f"{row['latent']['r2']:10.2f}   {sum(row['seconds'].values()):7.0f}"
            )
        if "random" in found:
            lines.append(f"  {'random actions':32} {'':>10}   {_reached(found['random'])}")
        lines.append(f"  {'pixels':32} {'':>10}   {'':>13}   {'':>12}   {found['pixels']['r2']:12.2f}")
        pairs = [pair for pair in summary["comparisons"] if pair["world"] == world]
        lines += [""] if pairs else []
        for pair in pairs:
            low, high = (100 * end for end in pair["interval"])
            lines.append(
                f"  {pair['labels']:>5} episodes: {METHODS[pair['a']]} {pair['verdict']} {METHODS[pair['b']]}: "
                f"{100 * pair['difference']:+.0f} points (95% interval {low:+.0f} to {high:+.0f}, p = {pair['p']:.2g})"
            )
    return "\n".join(lines)


def _reached(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    reached = f"{row['successes']}/{row['episodes']}"
    return f"{reached:>13}   {low:5.0%} to {high:4.0%}"
