"""The report of a demo: one HTML file that opens without a server, and one picture for a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from worldmodel.atomic import write_bytes
from worldmodel.data.episodes import EpisodeStore
from worldmodel.report import learning_page as learning
from worldmodel.report import results_page as results
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.markup import Html, div, el, join, p
from worldmodel.report.overview import overview
from worldmodel.report.parts import remark, stage_row, table
from worldmodel.report.style import style_sheet

_LIBRARIES = ("worldmodel", "torch", "numpy", "gymnasium", "mujoco", "av")


def write_report(
    run: DemoRun, split: tuple[range, range] | None, machine: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write ``report.html`` and ``overview.png`` into the run's directory.

    What a missing or damaged stage would have shown is replaced by a plain remark.

    Args:
        run: The demo's directory.
        split: Positions of the training and of the held-out episodes in its data; None if there are no data.
        machine: Facts about the machine, by name.

    Returns:
        The two paths. ``overview.png`` is written only if the V-JEPA agent has results.

    Raises:
        OSError: The disk is full or not writable.
    """
    page, picture = run.path / "report.html", run.path / "overview.png"
    write_bytes(page, build_page(run, split, machine).encode())
    content = overview(run)
    if content is not None:
        write_bytes(picture, content)
    return page, picture


def build_page(run: DemoRun, split: tuple[range, range] | None, machine: Mapping[str, str]) -> str:
    """The whole page as text."""
    parts = [
        attempt("the first screen", lambda: results.first_screen(run)),
        _section("How it works", _how(run, split)),
        _section("Successes and failures", attempt("filmstrips", lambda: results.played(run))),
        _section("Results", attempt("the results", lambda: results.results_table(run))),
        _section("Training", _training(run)),
        _section("Every stage by hand", attempt("the stages", lambda: stages(run))),
        _section("The machine", attempt("the machine", lambda: machine_facts(run, machine))),
    ]
    head = el(
        "head",
        None,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("title", None, "Planning from pixels with a video world model"),
        el("style", None, Html(style_sheet())),
    )
    body = el("body", None, el("main", None, *parts))
    return f"<!DOCTYPE html>\n{el('html', {'lang': 'en'}, head, body)}\n"


def attempt(what: str, build: Callable[[], Html]) -> Html:
    """A part of the page, or a remark where its files are missing or damaged."""
    try:
        return build()
    except (ValueError, OSError) as error:
        return remark(f"Left out: {what}. {error}")


def _section(title: str, *content: Html) -> Html:
    return el("section", None, el("h2", None, title), *content)


def _step(title: str, text: str, *pictures: Html) -> Html:
    return div("step", el("h3", None, title), p(text), *pictures)


def _how(run: DemoRun, split: tuple[range, range] | None) -> Html:
    """The four steps from video to plans, each with a picture."""

    def picture(what: str, build: Callable[[EpisodeStore, range, range], Html]) -> Html:
        if split is None:
            return remark(f"Left out: {what}, because there are no data yet.")
        train, held_out = split
        return attempt(what, lambda: build(EpisodeStore(run.path / "data"), train, held_out))

    return join(
        [
            _step(
                "1. Collect: a ball explores",
                "Random, persistent actions push a ball through two rooms. Only pixels and actions are kept for learning; "
                "there are no rewards and no goals.",
                picture("the data", lambda store, train, _: learning.data_strip(store, train)),
            ),
            _step(
                "2. Pretrain: predict what is hidden",
                "V-JEPA hides the same places in every frame of a clip and predicts their features from the visible ones. "
                "The target features come from a slowly following copy of the encoder that sees the full clip.",
                picture("the mask", lambda store, _, held_out: learning.mask_strip(run, store, held_out)),
            ),
            _step(
                "What the encoder tells apart",
                "Each patch of a frame has a feature vector. Here its first three principal components are shown as red, green "
                "and blue, after the mean of each place is subtracted: grey is a patch as it usually looks. A patch whose colour "
                "depends on where the ball is carries the information that a world model needs.",
                picture("the features", lambda store, _, held_out: learning.feature_strip(run, store, held_out)),
            ),
            _step(
                "3. Train: imagine what actions do",
                "A predictor learns the next latent from the latent and the action. From one given frame and the actions that "
                "followed, it imagines on its own. To make its latents visible, each is shown as the real frame, out of training "
                "episodes, whose latent is nearest.",
                picture("imagined episodes", lambda s, train, held: learning.imagination_strip(run, s, train, held)),
                p(
                    "How far imagined latents are from the real ones, against predicting that nothing moves. Each model has its "
                    "own latents, so compare a curve with its own dashed line, and not with other plots."
                ),
                attempt("the open-loop error", lambda: learning.open_loop_plot(run)),
            ),
            _step(
                "4. Plan: search for actions whose imagined end looks like the goal",
                "The goal picture is encoded as well. At every step the agent tries many action sequences in its imagination, keeps "
                "those that come nearest to the goal's latent, refines them (cross-entropy method), executes the first action, and "
                "plans again. The filmstrips below show the result.",
            ),
        ]
    )


def _training(run: DemoRun) -> Html:
    return join(
        [
            el("h3", None, "V-JEPA pretraining"),
            p("The loss alone tells nothing, since it also falls while features collapse: spread and rank must stay up."),
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
    return join([intro, *rows, el("h3", {"class": "gap"}, "All of them"), el("code", None, "\n".join(s["command"] for s in found))])


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
            table(["", ""], [[name, value] for name, value in facts.items()], numbers_from=2),
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
