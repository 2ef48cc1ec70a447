"""The report of a demo: one HTML file that opens without a server, and one picture for a README."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from worldmodel.atomic import write_bytes
from worldmodel.report import learning_page as learning
from worldmodel.report import results_page as results
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.how_page import Split, how_it_works
from worldmodel.report.markup import Html, el, join, p
from worldmodel.report.overview import overview
from worldmodel.report.page import page, section
from worldmodel.report.parts import attempt, remark, stage_row, table

_TITLE = "Planning from pixels with a video world model"
_LEDE = (
    "An agent that has only seen a ball explore two rooms is shown a picture of a goal. "
    "It imagines what its actions will do, and moves the ball there."
)
_LIBRARIES = ("worldmodel", "torch", "numpy", "gymnasium", "mujoco", "av")


def write_report(run: DemoRun, split: Split, machine: Mapping[str, str]) -> tuple[Path, Path | None]:
    """Write ``report.html`` and ``overview.png`` into the run's directory.

    What a missing or damaged stage would have shown is replaced by a plain remark.

    Args:
        run: The demo's directory.
        split: Says for its data which positions were trained on, and which were held out.
        machine: Facts about the machine, by name.

    Returns:
        The two paths; None for ``overview.png``, which is not written, if the V-JEPA agent has no results.

    Raises:
        ValueError: An episode that ``overview.png`` is to show is damaged; the page has been written.
        OSError: The disk is full or not writable.
    """
    file, picture = run.path / "report.html", run.path / "overview.png"
    write_bytes(file, build_page(run, split, machine).encode())
    content = overview(run)
    if content is None:
        return file, None
    write_bytes(picture, content)
    return file, picture


def build_page(run: DemoRun, split: Split, machine: Mapping[str, str]) -> str:
    """The whole page as text."""
    return page(
        _TITLE,
        _LEDE,
        attempt("the results", lambda: results.hero(run)),
        section("How it works", how_it_works(run, split)),
        section("Successes and failures", attempt("filmstrips", lambda: results.played(run))),
        section("Results", attempt("the results", lambda: results.results_table(run))),
        section("Training", _training(run)),
        section("Every stage by hand", attempt("the stages", lambda: stages(run))),
        section("The machine", attempt("the machine", lambda: machine_facts(run, machine))),
    )


def _training(run: DemoRun) -> Html:
    return join(
        [
            el("h3", None, "V-JEPA pretraining"),
            p(
                "The loss alone tells nothing: it also falls while features collapse. Spread and rank must stay up."
            ),
            attempt("curves of the pretraining", lambda: learning.pretraining_curves(run)),
            el("h3", {"class": "gap"}, "World models"),
            attempt("curves of the world models", lambda: learning.world_model_curves(run)),
        ]
    )


def stages(run: DemoRun) -> Html:
    """Seconds and command of each stage."""
    found = run.stages()
    if not found:
        return remark("Left out: the commands, because stages.json is missing.")
    longest = max(stage["seconds"] for stage in found)
    total = sum(stage["seconds"] for stage in found)
    rows = [stage_row(s["name"], s["what"], s["command"], s["seconds"], longest) for s in found]
    intro = p(f"{total / 60:.1f} minutes in all. A click on a command selects it.")
    together = el("code", None, "\n".join(stage["command"] for stage in found))
    return join([intro, *rows, el("h3", {"class": "gap"}, "All of them"), together])


def machine_facts(run: DemoRun, machine: Mapping[str, str]) -> Html:
    """What the stages chose by looking at the machine, and the machine on which the report was written."""
    chosen = run.machines()
    keys = sorted({key for choices in chosen.values() for key in choices})
    rows = [[name, *[str(choices.get(key, "–")) for key in keys]] for name, choices in chosen.items()]
    choices = table(["Stage", *keys], rows) if rows else remark("No stage recorded choices (machine.json).")
    facts = {**machine, **_versions()}
    return join(
        [
            p("Chosen by each stage when it began:"),
            choices,
            el("p", {"class": "gap"}, "Where this report was written:"),
            table([], [[name, value] for name, value in facts.items()], numbers_from=2),
        ]
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
