"""Compare two runs of worldmodel plan task by task: which of the agents is better, and is that more than chance?

Example:
    worldmodel compare runs/plan/a runs/plan/b
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from envs.statistics import mcnemar, paired_difference
from worldmodel.atomic import read_json

POSITIONAL = ("a", "b")


@dataclass
class Config:
    """Settings of a comparison."""

    #: Run directory of the first agent.
    a: str = MISSING
    #: Run directory of the second agent, on the same tasks.
    b: str = MISSING


def run(config: Config) -> dict[str, Any]:
    """Both success rates, the tasks that tell the agents apart, and what they say."""
    return compare({name: read_results(path) for name, path in (("a", config.a), ("b", config.b))})


def read_results(path: str) -> dict[str, Any]:
    """``results.json`` of a run of worldmodel plan, with its directory as ``"run"``.

    Raises:
        FileNotFoundError: The run is not finished, or none.
        ValueError: The directory is a run of another job.
    """
    file = Path(path) / "results.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no results.json; give a finished run of worldmodel plan")
    found: dict[str, Any] = read_json(file)
    if not found.keys() >= {"suite", "tasks", "successes", "interval"}:
        raise ValueError(f"{path} is no run of worldmodel plan (its results.json has no suite and tasks)")
    return {"run": path, **found}


def compare(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What two results, ``a`` and ``b``, say about each other.

    Raises:
        ValueError: They played different tasks.
    """
    a, b = results["a"], results["b"]
    if a["suite"] != b["suite"]:
        names = [f"{r['run']} played {r.get('suite_name', 'a suite')} ({r['suite'][:12]})" for r in (a, b)]
        raise ValueError(f"{names[0]} and {names[1]}; only runs on the same tasks can be compared")
    solved = {name: {t["id"] for t in found["tasks"] if t["success"]} for name, found in results.items()}
    only_a, only_b = sorted(solved["a"] - solved["b"]), sorted(solved["b"] - solved["a"])
    both, n = len(solved["a"] & solved["b"]), len(a["tasks"])
    neither = n - both - len(only_a) - len(only_b)
    return {
        **{name: {k: found[k] for k in ("run", "successes", "interval")} for name, found in results.items()},
        "episodes": n,
        "both": both,
        "neither": neither,
        "only_a": only_a,
        "only_b": only_b,
        "difference": (len(only_a) - len(only_b)) / n,
        "interval": paired_difference(both, len(only_a), len(only_b), neither),
        "p": mcnemar(len(only_a), len(only_b)),
    }


def outcome(found: dict[str, Any]) -> str:
    """What the command says at its end."""
    lines = []
    for name in ("a", "b"):
        low, high = found[name]["interval"]
        rate = f"{found[name]['successes']} of {found['episodes']} goals reached (95% interval {low:.0%} to {high:.0%})"
        lines.append(f"{name}: {rate}; {found[name]['run']}")
    for name in ("a", "b"):
        tasks = found[f"only_{name}"]
        lines.append(f"only {name}: {len(tasks)}{': tasks ' if tasks else ''}{', '.join(map(str, tasks))}")
    lines.append(f"both: {found['both']}; neither: {found['neither']}")
    low, high = (100 * end for end in found["interval"])
    points = f"{100 * found['difference']:+.1f} points (95% interval {low:+.1f} to {high:+.1f})"
    lines.append(f"a minus b: {points}; McNemar's exact test: p = {found['p']:.3g}")
    return "\n".join(lines)


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("compare"))
