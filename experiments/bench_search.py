"""What each part of a search brings, with the true simulator as cost, at an equal number of simulated plans.

Part of `worldmodel bench what=[search]`. A row plays the same held-out tasks twice: with a planner whose parts are all
on, and with one of them off. Budgets are so small that the search decides whether a goal is reached in time. Each
side is a run of `worldmodel plan agent=simulator`, so what is done is not done again.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from envs.statistics import mcnemar, paired_difference
from experiments import plan
from planners.cem import CEMConfig
from planners.icem import ICEMConfig, sample_counts
from planners.mpc import MPCConfig
from worldmodel.atomic import write_bytes
from worldmodel.training.run import config_hash

#: Rows: a planner's setting, and its value without the part. A warm start is the agent's.
PARTS = {
    "cem.warm_start": 0.0,
    "cem.correlated": 0.0,
    "cem.momentum": 0.0,
    "icem.warm_start": 0.0,
    "icem.keep": 0.0,
    "icem.colour": 0.0,
    "icem.decay": 1.0,
    "icem.momentum": 0.0,
}


@dataclass
class SearchBench:
    """Tasks, and sizes of a search."""

    #: Task suites, each in a world of its own.
    suites: list[str] = field(default_factory=lambda: ["two_room", "reacher", "point_maze"])
    #: Which rows; empty: all.
    parts: list[str] = field(default_factory=list)
    #: Tasks of each suite, the first ones.
    tasks: int = 100
    #: Plans of an iteration; where later iterations draw fewer, of all iterations on average.
    samples: int = 4
    #: Rounds of a decision.
    iterations: int = 2
    #: Plans that the next round is drawn around.
    elites: int = 2
    #: Steps of a plan.
    horizon: int = 16
    #: Steps of a plan that are carried out before the next decision.
    execute: int = 8
    #: Of the planners.
    seed: int = 0
    #: Directory of the evaluations and of the table; they are continued there.
    runs: str = "runs/bench_search"

    def __post_init__(self) -> None:
        if set(self.parts) - set(PARTS):
            raise ValueError(f"search.parts={self.parts}: choose some of {', '.join(PARTS)}")


@dataclass(frozen=True)
class Side:
    """A planner and an agent's settings."""

    planner: Any
    warm_start: bool = True


def sides(bench: SearchBench, part: str) -> tuple[Side, Side]:
    """With the part and without it, of equally many plans per decision.

    All other parts are on in both, at values that do not follow the planners' defaults, which depend on the outcome.
    """
    kind, setting = part.split(".")
    size = (bench.samples, bench.iterations, bench.elites, bench.horizon)
    planner: Any = CEMConfig(*size, correlated=0.5, momentum=0.1 if setting == "momentum" else 0.0)
    if kind == "icem":
        planner = _filled(ICEMConfig(*size, colour=2.0, decay=1.25, keep=0.3, momentum=0.1), bench)
    if setting == "warm_start":
        return Side(planner), Side(planner, warm_start=False)
    other = replace(planner, **{setting: PARTS[part]})
    return Side(planner), Side(_filled(other, bench) if kind == "icem" else other)


def _filled(config: ICEMConfig, bench: SearchBench) -> ICEMConfig:
    """As many samples in the first iteration as make the total that of CEM, or what comes nearest."""
    total = bench.samples * bench.iterations
    choices = [replace(config, samples=samples) for samples in range(bench.samples, total + 1)]
    return min(choices, key=lambda choice: abs(sum(sample_counts(choice)) - total))


def play(bench: SearchBench, suite: str, side: Side) -> list[dict[str, Any]]:
    """The tasks' rows, by their ids, as `worldmodel plan` leaves them."""
    config = plan.Config(
        agent="simulator",
        suite=suite,
        tasks=bench.tasks,
        planner=side.planner,
        mpc=MPCConfig(bench.execute, side.warm_start),
        seed=bench.seed,
        num_envs=50,
        device="cpu",
        threads=1,
    )
    name = f"{type(side.planner).__name__}_{config_hash(asdict(config))}"
    rows: list[dict[str, Any]] = plan.run(replace(config, out=str(Path(bench.runs) / suite / name)))["tasks"]
    return rows


def compare(with_part: list[dict[str, Any]], without: list[dict[str, Any]]) -> dict[str, float]:
    """Goals reached and steps to the goal of both sides, on the same tasks; a goal missed counts as the horizon.

    Differences are those of the side with the part to the side without it, with their 95% intervals.
    """
    pairs = list(zip(with_part, without, strict=True))
    if any(one["id"] != other["id"] for one, other in pairs):
        raise RuntimeError("the two sides played other tasks")
    table = [sum((a["success"], b["success"]) == cell for a, b in pairs) for cell in _CELLS]
    low, high = paired_difference(*table)
    gaps = [a["steps"] - b["steps"] for a, b in pairs]
    half = 1.96 * stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return {
        "tasks": len(pairs),
        "goals with": table[0] + table[1],
        "goals without": table[0] + table[2],
        "difference in points": 100 * (table[1] - table[2]) / len(pairs),
        "difference in points, low": 100 * low,
        "difference in points, high": 100 * high,
        "p": mcnemar(table[1], table[2]),
        "steps with": mean(a["steps"] for a, _ in pairs),
        "steps without": mean(b["steps"] for _, b in pairs),
        "difference in steps": mean(gaps),
        "difference in steps, low": mean(gaps) - half,
        "difference in steps, high": mean(gaps) + half,
    }


_CELLS = ((True, True), (True, False), (False, True), (False, False))
HEADER = (
    "| world | part | goals with | without | difference in points | p | steps with | without | difference in steps |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def as_row(suite: str, part: str, found: dict[str, float]) -> str:
    """A line of the table."""
    points, steps = (
        f"{found[f'difference in {unit}']:+{form}} "
        f"({found[f'difference in {unit}, low']:+{form}} to {found[f'difference in {unit}, high']:+{form}})"
        for unit, form in (("points", ".0f"), ("steps", ".1f"))
    )
    return (
        f"| {suite} | {part} | {found['goals with']:.0f} of {found['tasks']:.0f} | {found['goals without']:.0f} | "
        f"{points} | {found['p']:.2g} | {found['steps with']:.1f} | {found['steps without']:.1f} | {steps} |"
    )


def measure(bench: SearchBench, say: Callable[[str], None] = print) -> dict[str, float]:
    """All rows, said as they come, and kept as `table.md`.

    Args:
        bench: Tasks and sizes.
        say: Gets each line of the table.
    """
    figures: dict[str, float] = {}
    lines = HEADER.splitlines()
    say(HEADER)
    for suite in bench.suites:
        for part in bench.parts or PARTS:
            found = compare(*(play(bench, suite, side) for side in sides(bench, part)))
            figures |= {f"search: {suite}, {part}, {name}": value for name, value in found.items()}
            lines.append(as_row(suite, part, found))
            say(lines[-1])
    write_bytes(Path(bench.runs) / "table.md", ("\n".join(lines) + "\n").encode())
    return figures
