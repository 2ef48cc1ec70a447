"""The report's parts on planning: the first screen, filmstrips of played tasks, and the table of results."""

from __future__ import annotations

from statistics import median
from typing import Any

from worldmodel.report.artefacts import LABELS, POLICIES, DemoRun, Episode, choose_spread
from worldmodel.report.findings import comparisons, headline
from worldmodel.report.markup import Html, div, el, join, p, span
from worldmodel.report.parts import (
    FilmRow,
    attempt,
    film,
    goal_and_video,
    percent,
    remark,
    success_bars,
    table,
)
from worldmodel.report.strips import spread

_FRAMES = 8
_DOOR = "other room"


def all_results(run: DemoRun) -> dict[str, dict[str, Any]]:
    """``results.json`` of the policies that have one."""
    found = {kind.name: run.results(kind.name) for kind in POLICIES}
    return {name: results for name, results in found.items() if results is not None}


def hero(run: DemoRun) -> Html:
    """Four videos of the V-JEPA agent, success bars, and what the numbers say."""
    results = all_results(run)
    bars = success_bars(run.bars())
    head = div(
        "bars",
        el("h2", None, "Goals reached, with 95% intervals"),
        bars or remark("No policy was evaluated yet."),
    )
    sentences = [p(sentence) for sentence in headline(results)]
    if stages := run.stages():
        minutes = sum(stage["seconds"] for stage in stages) / 60
        sentences.append(
            el("p", {"class": "small"}, f"The whole run, controls included, took {minutes:.1f} minutes.")
        )
    verdict = div("verdict", *sentences)
    watch = attempt("videos of the V-JEPA agent", lambda: _videos(run, results))
    return div("hero", div("watch", watch), div("numbers", head, verdict))


def _videos(run: DemoRun, results: dict[str, dict[str, Any]]) -> Html:
    if "vjepa" not in results:
        return remark("Left out: videos of the V-JEPA agent, because plan_vjepa has no results.json.")
    tasks = results["vjepa"]["tasks"]
    solved = [task for task in tasks if task["success"]]
    door = [task for task in solved if task["label"] == _DOOR]
    chosen = choose_spread(door if len(door) >= 4 else solved or tasks, 4)
    cards = []
    for episode in _episodes(run, "vjepa", chosen):
        task = episode.task
        how = "Reached" if task["success"] else "Not reached"
        caption = join([el("b", None, how), Html(" "), el("span", None, f"in {task['steps']} steps")])
        cards.append(goal_and_video(episode.goal, episode.frames, caption))
    if not cards:
        return remark("Left out: videos of the V-JEPA agent, because plan_vjepa kept no pictures.")
    if len(door) >= 4:
        reached = f"{len(door)} goals behind the door that the V-JEPA agent reached"
        note = f"{len(cards)} of the {reached}, shortest way first."
    elif solved:
        note = f"{len(cards)} of the {len(solved)} goals that the V-JEPA agent reached."
    else:
        note = "The V-JEPA agent reached no goal; these are attempts."
    if 0 < len(solved) < len(tasks):
        note += " Failures: see below."
    return join([div("cards", *cards), el("p", {"class": "small cards-note"}, note)])


def _episodes(run: DemoRun, policy: str, tasks: list[dict[str, Any]]) -> list[Episode]:
    found = [run.episode(policy, task) for task in tasks]
    return [episode for episode in found if episode is not None]


def episode_row(episode: Episode, label: str = "", count: int = _FRAMES) -> FilmRow:
    """A played task as a row of frames behind its goal."""
    task, shown = episode.task, spread(len(episode.frames), count)
    said = f"{'Reached' if task['success'] else 'Not reached'} in {task['steps']} steps"
    way = f"; {task['final_distance']:.2f} from the goal, {task['start_distance']:.2f} at the start"
    note = f"{task['label']}, task {task['id']}" + ("" if task["success"] else way)
    frames = [episode.frames[i] for i in shown] + [None] * (count - len(shown))
    captions = [f"step {i}" for i in shown] + [""] * (count - len(shown))
    return FilmRow(label or said, f"{said}; {note}" if label else note, frames, captions, goal=episode.goal)


def played(run: DemoRun) -> Html:
    """Filmstrips: successes and failures of the V-JEPA agent, and a control that fails."""
    results = run.results("vjepa")
    if results is None:
        return remark("Left out: filmstrips, because plan_vjepa has no results.json.")
    solved = [task for task in results["tasks"] if task["success"]]
    failed = [task for task in results["tasks"] if not task["success"]]
    parts = [el("h3", None, f"Successes ({len(solved)} of {len(results['tasks'])})")]
    parts.append(
        _strips(run, "vjepa", choose_spread(solved, 3)) if solved else p("The agent reached no goal.")
    )
    parts.append(el("h3", {"class": "gap"}, f"Failures ({len(failed)} of {len(results['tasks'])})"))
    parts.append(
        _strips(run, "vjepa", choose_spread(failed, 4))
        if failed
        else p("There are none: the agent reached every goal.")
    )
    parts += [el("h3", {"class": "gap"}, "A control that fails"), _control(run, solved or failed)]
    return join(parts)


def _strips(run: DemoRun, policy: str, tasks: list[dict[str, Any]]) -> Html:
    rows = [episode_row(episode) for episode in _episodes(run, policy, tasks)]
    return film(rows) if rows else remark(f"Left out: filmstrips, because plan_{policy} kept no pictures.")


def _control(run: DemoRun, tasks: list[dict[str, Any]]) -> Html:
    """The first control that fails a task that is shown above, or any task."""
    shown = [task["id"] for task in choose_spread(tasks, 3)]
    for name in ("random", "untrained_encoder", "noop"):
        results = run.results(name)
        failed = [task for task in results["tasks"] if not task["success"]] if results else []
        failed.sort(key=lambda task: (task["id"] not in shown, -task["start_distance"]))
        episodes = _episodes(run, name, failed[:1])
        if episodes:
            return film([episode_row(episodes[0], LABELS[name])])
    return remark("Left out: no control failed a task with pictures.")


def results_table(run: DemoRun) -> Html:
    """All policies on the held-out tasks."""
    found = all_results(run)
    if not found:
        return remark("Left out: the table, because no policy was evaluated yet.")
    heads = ["Policy", "Reached", "95% interval", "Through the door", "Steps (median)", "ms per decision"]
    kinds = [kind for kind in POLICIES if kind.name in found]
    rows = [
        [join([el("span", None, kind.label), span("small", kind.what)]), *_numbers(found[kind.name])]
        for kind in kinds
    ]
    ours = next((i for i, kind in enumerate(kinds) if kind.name == "vjepa"), -1)
    missing = [kind.label for kind in POLICIES if kind.name not in found]
    notes = [p(sentence) for sentence in comparisons(found)]
    if missing:
        notes.append(remark(f"Not evaluated yet: {', '.join(missing)}."))
    explained = (
        "Steps are the median over tasks that were solved. A decision is one search for the next action. "
        "Intervals are Wilson's."
    )
    return join([table(heads, rows, ours=ours), el("p", {"class": "small gap"}, explained), *notes])


def _numbers(results: dict[str, Any]) -> list[str]:
    steps = [task["steps"] for task in results["tasks"] if task["success"]]
    door = [task["success"] for task in results["tasks"] if task["label"] == _DOOR]
    milliseconds = 1000 * results["seconds_per_decision"]
    return [
        f"{results['successes']}/{results['episodes']}",
        percent(*results["interval"]),
        f"{sum(door)}/{len(door)}",
        f"{median(steps):g}" if steps else "–",
        "< 1" if milliseconds < 1 else f"{milliseconds:.0f}",
    ]
