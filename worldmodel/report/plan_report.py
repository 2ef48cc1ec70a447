"""The page of an agent on a suite of tasks: how many goals it reached and how it failed; several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from worldmodel.atomic import read_json, write_bytes
from worldmodel.report.artefacts import Episode, choose_spread, paired, read_episode
from worldmodel.report.comparison import COLORS
from worldmodel.report.figures import Bar, Line, curves
from worldmodel.report.findings import sign_test
from worldmodel.report.markup import Html, div, el, join, p
from worldmodel.report.page import page, section
from worldmodel.report.parts import (
    attempt,
    film,
    goal_and_video,
    percent,
    remark,
    success_bars,
    table,
    themed,
)
from worldmodel.report.results_page import episode_row
from worldmodel.report.search_section import searches
from worldmodel.report.theme import Theme

#: What the agents are; runs are shown in this order.
AGENTS = {
    "world_model": "plans in the latents of a world model, from pictures",
    "simulator_latent": "plans with the true simulator, judged by the model's latents: what the representation allows",
    "simulator": "plans with the true simulator and the true distance: what the search allows",
    "scripted": "the world's hand-written policy",
    "replay": "the recorded solutions: the tasks can be done",
    "random": "uniform random actions",
    "noop": "no action",
}
_FAILURES, _SUCCESSES = 6, 3


@dataclass(frozen=True)
class PlanRun:
    """A finished run of ``worldmodel plan``: its directory, what it is called on the page, and its results."""

    path: Path
    name: str
    results: dict[str, Any]

    @property
    def ours(self) -> bool:
        """Whether it plans with a world model alone."""
        return bool(self.results["agent"] == "world_model")

    def tasks(self, success: bool) -> list[dict[str, Any]]:
        """The tasks that it solved, or those that it did not."""
        return [task for task in self.results["tasks"] if task["success"] == success]

    def episodes(self, tasks: Sequence[dict[str, Any]]) -> list[Episode]:
        """The pictures of tasks, where they were kept."""
        found = [read_episode(self.path, task) for task in tasks]
        return [episode for episode in found if episode is not None]


def is_plan(path: str | Path) -> bool:
    """Whether a directory is a finished run of ``worldmodel plan``.

    Raises:
        ValueError: ``results.json`` is damaged.
    """
    file = Path(path) / "results.json"
    found = read_json(file) if file.is_file() else None
    return isinstance(found, dict) and found.keys() >= {"agent", "suite", "tasks"}


def find_plans(path: str | Path) -> list[Path]:
    """Runs of ``worldmodel plan`` one level down, controls last."""
    found = [file.parent for file in sorted(Path(path).glob("*/results.json")) if is_plan(file.parent)]
    order = list(AGENTS)

    def place(run: Path) -> int:
        agent = read_json(run / "results.json")["agent"]
        return order.index(agent) if agent in order else len(order)

    return sorted(found, key=place)


def write_plan_report(path: str | Path) -> Path:
    """Write ``report.html`` into a run of ``worldmodel plan``: its figures, and videos of successes and failures.

    Raises:
        FileNotFoundError: The run is not done.
        ValueError: A file of it is damaged.
        OSError: The disk is full or not writable.
    """
    root = Path(path)
    if not is_plan(root):
        raise FileNotFoundError(f"{root} holds no finished run of worldmodel plan")
    results = read_json(root / "results.json")
    run = PlanRun(root, results["agent"], results)
    content = page(
        f"{run.name} on {_suite(results)}",
        f"{_sentence(run)} {_rules(results)}",
        section("Seen", attempt("videos", lambda: _videos(run))),
        section("Figures", _table([run]), themed(_curve([run]), "Goals reached against steps")),
        *searches(root),
        *_films(run),
        section("Made with", _made_with(results)),
    )
    write_bytes(root / "report.html", content.encode())
    return root / "report.html"


def write_plans_report(path: str | Path) -> Path:
    """Write ``report.html`` into a directory that holds several runs of ``worldmodel plan``.

    Raises:
        FileNotFoundError: It holds none.
        ValueError: A file of them is damaged.
        OSError: The disk is full or not writable.
    """
    root = Path(path)
    runs = [PlanRun(found, found.name, read_json(found / "results.json")) for found in find_plans(root)]
    if not runs:
        raise FileNotFoundError(f"{root} holds no finished runs of worldmodel plan")
    suites = {run.results["suite"] for run in runs}
    warning = (
        [] if len(suites) == 1 else [remark("These played different tasks: their figures do not compare.")]
    )
    first = next((run for run in runs if run.ours), runs[0])
    bars = [_bar(run, run is first) for run in runs]
    content = page(
        f"{len(runs)} agents on {_suite(first.results)}",
        _rules(first.results),
        *warning,
        section("Goals reached, with 95% intervals", div("bars", success_bars(bars))),
        section("Figures", _table(runs), *[p(text) for text in _against(first, runs)]),
        section("Goals reached against steps", themed(_curve(runs), "Goals reached against steps")),
        section(f"Seen: {first.name}", attempt("videos", lambda: _videos(first))),
        *_films(first),
        section("Made with", _made_with(first.results)),
    )
    write_bytes(root / "report.html", content.encode())
    return root / "report.html"


def _bar(run: PlanRun, accent: bool) -> Bar:
    low, high = run.results["interval"]
    return Bar(run.name, run.results["successes"], run.results["episodes"], low, high, accent)


def _suite(results: dict[str, Any]) -> str:
    return str(results.get("suite_name") or f"suite {results['suite'][:8]}")


def _sentence(run: PlanRun) -> str:
    low, high = run.results["interval"]
    said = AGENTS.get(run.name, "")
    return (
        f"{said[:1].upper()}{said[1:]}. It reached {run.results['successes']} of {run.results['episodes']} goals "
        f"(95% interval {percent(low, high)})."
    )


def _rules(results: dict[str, Any]) -> str:
    horizon = f" within {results['horizon']} steps" if "horizon" in results else ""
    return f"{results['episodes']} held-out tasks; one counts when its goal was ever reached{horizon}."


def _videos(run: PlanRun) -> Html:
    """Two failures and two successes, or more of one where the other is missing."""
    failed, solved = run.tasks(False), run.tasks(True)
    few = min(2, len(failed)), min(2, len(solved))
    tasks = [
        *choose_spread(failed, max(few[0], 4 - few[1])),
        *choose_spread(solved, max(few[1], 4 - few[0])),
    ][:4]
    cards = []
    for episode in run.episodes(tasks):
        task = episode.task
        said = "Reached" if task["success"] else "Not reached"
        caption = join(
            [el("b", None, said), Html(" "), el("span", None, f"in {task['steps']} steps, task {task['id']}")]
        )
        cards.append(goal_and_video(episode.goal, episode.frames, caption))
    return div("cards", *cards) if cards else remark("Left out: videos, because no pictures were kept.")


def _films(run: PlanRun) -> list[Html]:
    """Failures first: they are what there is to learn from."""
    parts = []
    for title, tasks, count in (
        ("Failures", run.tasks(False), _FAILURES),
        ("Successes", run.tasks(True), _SUCCESSES),
    ):
        heading = f"{title} ({len(tasks)} of {run.results['episodes']})"
        parts.append(section(heading, attempt(title.lower(), lambda t=tasks, n=count: _strips(run, t, n))))  # type: ignore[misc]
    return parts


def _strips(run: PlanRun, tasks: list[dict[str, Any]], count: int) -> Html:
    if not tasks:
        return p("There are none.")
    episodes = run.episodes(choose_spread(tasks, count))
    if not episodes:
        return remark("Left out: filmstrips, because no pictures were kept.")
    return film([episode_row(episode) for episode in episodes])


def _table(runs: Sequence[PlanRun]) -> Html:
    labels = sorted({task["label"] for run in runs for task in run.results["tasks"]})
    goes_on = any(run.results.get("held") for run in runs)
    heads = ["Agent", "Reached", "95% interval", *(["At the end", "Held"] if goes_on else []), *labels]
    heads += ["Steps (median)", "Straightness", "Left to go", "ms per decision"]
    rows = [[run.name, *_cells(run, labels, goes_on)] for run in runs]
    ours = next((i for i, run in enumerate(runs) if run.ours), -1)
    explained = (
        "Steps: median over solved tasks. Straightness: how far the goal came nearer, as a share of the way travelled, "
        "mean over solved tasks. Left to go: mean distance to the goal at the end. "
        + ("Held: at the goal for 10 steps in a row. " if goes_on else "")
        + "Intervals are Wilson's."
    )
    return join(
        [table(heads, rows, ours=ours if len(runs) > 1 else -1), el("p", {"class": "small gap"}, explained)]
    )


def _cells(run: PlanRun, labels: Sequence[str], goes_on: bool) -> list[str]:
    results, tasks = run.results, run.results["tasks"]
    episodes = results["episodes"]
    of_labels = [[task["success"] for task in tasks if task["label"] == label] for label in labels]
    later = [
        f"{results[key]['successes']}/{episodes}" if results.get(key) else "–" for key in ("final", "held")
    ]
    straight, steps = results.get("path_efficiency"), [task["steps"] for task in run.tasks(True)]
    milliseconds = 1000 * results["seconds_per_decision"]
    return [
        f"{results['successes']}/{episodes}",
        percent(*results["interval"]),
        *(later if goes_on else []),
        *[f"{sum(solved)}/{len(solved)}" for solved in of_labels],
        f"{median(steps):g}" if steps else "–",
        "–" if straight is None else f"{straight:.2f}",
        f"{sum(task['final_distance'] for task in tasks) / episodes:.2f}",
        "< 1" if milliseconds < 1 else f"{milliseconds:.0f}",
    ]


def _against(first: PlanRun, runs: Sequence[PlanRun]) -> list[str]:
    """The first run against each other one, task by task."""
    sentences = []
    for run in runs:
        counts = paired(first.results, run.results) if run is not first else None
        if counts is not None:
            only_first, only_other = counts
            sentences.append(
                f"{first.name} against {run.name}: {only_first} tasks solved only by the first, {only_other} only by "
                f"the second (McNemar's exact test: p = {sign_test(only_first, only_other):.3g})."
            )
    return sentences


def _curve(runs: Sequence[PlanRun]) -> Callable[[Theme], bytes]:
    lines = []
    for run, color in zip(runs, [COLORS[i % len(COLORS)] for i in range(len(runs))], strict=True):
        tasks = run.results["tasks"]
        horizon = run.results.get("horizon") or max(task["steps"] for task in tasks)
        reached = [
            100 * sum(t["success"] and t["steps"] <= step for t in tasks) / len(tasks)
            for step in range(horizon + 1)
        ]
        lines.append(Line(run.name, list(range(horizon + 1)), reached, color))
    return lambda theme: curves(
        "Goals reached (%)",
        lines,
        theme,
        width=640,
        height=300,
        x_label="environment steps",
        legend=len(runs) > 1,
    )


def _made_with(results: dict[str, Any]) -> Html:
    facts = [
        ("Environment", results.get("env")),
        ("Suite", f"{_suite(results)}, sha256 {results['suite']}"),
        ("Model", results.get("model") and f"sha256 {results['model']}"),
        (
            "Seeds",
            results.get("seeds")
            and ", ".join(f"{k} {v}" for k, v in results["seeds"].items() if v is not None),
        ),
        ("After a success", results.get("after_success")),
        *results.get("versions", {}).items(),
    ]
    return table([], [[name, str(value)] for name, value in facts if value], numbers_from=2)
