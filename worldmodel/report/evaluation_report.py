"""The page of a world model's evaluation: what it predicts, what its latents hold, and what surprises it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import read_json, write_bytes
from worldmodel.evaluation.model_study import rows_of
from worldmodel.report import evaluation_figures as figures
from worldmodel.report.markup import Html, div, el, join, p
from worldmodel.report.page import page, section
from worldmodel.report.parts import FilmRow, attempt, film, looping, remark, table, themed
from worldmodel.report.strips import spread
from worldmodel.report.theme import LIGHT, Theme
from worldmodel.report.video import encode_mp4, encode_png, upscale

KIND = "world_model_evaluation"
_COLUMNS = 9
_GAP = 4  # pixels between panels

Arrays = Mapping[str, np.ndarray]
#: A picture by the name of its file, with what it shows in words.
Shown = Callable[[str, str], Html]


def is_evaluation(path: str | Path) -> bool:
    """Whether a directory is the run of an evaluation that is done.

    Raises:
        ValueError: ``results.json`` is damaged.
    """
    file = Path(path) / "results.json"
    found = read_json(file) if file.is_file() else None
    return isinstance(found, dict) and found.get("kind") == KIND


def find_evaluations(path: str | Path) -> list[Path]:
    """Runs of evaluations one or two levels down, in order of their names."""
    root = Path(path)
    files = sorted([*root.glob("*/results.json"), *root.glob("*/*/results.json")])
    return [
        file.parent for file in files if (file.parent / "arrays.npz").is_file() and is_evaluation(file.parent)
    ]


def write_evaluations(path: str | Path) -> Path:
    """Write ``report.html`` into a directory of evaluations: one table, a column for each model.

    Raises:
        FileNotFoundError: There are not two of them in it.
        ValueError: One is damaged.
        OSError: The disk is full or not writable.
    """
    root = Path(path)
    runs = {
        run.relative_to(root).as_posix(): read_json(run / "results.json") for run in find_evaluations(root)
    }
    if len(runs) < 2:
        raise FileNotFoundError(f"{root} holds {len(runs)} evaluations; a comparison needs two")
    file = root / "report.html"
    write_bytes(file, _comparison(root.name, runs).encode())
    return file


def _comparison(name: str, runs: Mapping[str, Mapping[str, Any]]) -> str:
    found = {run: {what: cells[0] for what, cells, _ in rows_of(results)} for run, results in runs.items()}
    whats = list(dict.fromkeys(what for cells in found.values() for what in cells))
    rows = [[what, *[cells.get(what, "–") for cells in found.values()]] for what in whats]
    episodes = {(r["data"], r["held_out"]) for r in runs.values()}
    warning = (
        []
        if len(episodes) == 1
        else [remark("These were not measured on the same data; only figures of the same data compare.")]
    )
    plots = []
    for title, label, read in _COMPARED:
        values = {run: read(results["models"]["trained"]) for run, results in runs.items()}
        marks = [
            (run, value["value"], value["interval"]) for run, value in values.items() if value is not None
        ]
        if len(marks) > 1:
            plots.append(themed(_compared(marks, title, label), title))
    return page(
        f"{len(runs)} world models compared: {name}",
        "One column for each evaluation. Errors of latents do not compare between models, their shares of the error of "
        "a copy do.",
        section("Figures", *warning, div("plots", *plots), table(["", *runs], rows)),
    )


def _compared(
    marks: Sequence[tuple[str, float, Sequence[float] | None]], title: str, label: str
) -> Callable[[Theme], bytes]:
    return lambda theme: figures.comparison_picture(marks, title, label, theme)


def _last_ratio(model: Mapping[str, Any]) -> Any:
    at = model["open_loop"]["at"]
    return at[list(at)[-1]]["ratio"]["copy_last"]


def _rho(model: Mapping[str, Any]) -> Any:
    found = model.get("plannability", {}).get("all")
    return found and {"value": found["rho"], "interval": found["interval"]}


#: Figures that are drawn side by side: title, axis, where they stand.
_COMPARED: tuple[tuple[str, str, Callable[[Mapping[str, Any]], Any]], ...] = (
    ("Open-loop error, last horizon", "share of the error of a copy (lower is better)", _last_ratio),
    ("Does the cost tell the distance?", "Spearman's ρ (higher is better)", _rho),
    ("True action identified", "share of steps", lambda model: model["sensitivity"]["identified"]),
)


def write_evaluation_report(path: str | Path) -> Path:
    """Write ``report.html``, and the pictures and the video as files of their own.

    Raises:
        FileNotFoundError: The evaluation is not done.
        ValueError: A file of it is damaged.
        OSError: The disk is full or not writable.
    """
    root = Path(path)
    if not is_evaluation(root):
        raise FileNotFoundError(f"{root} holds no finished evaluation; make one with: worldmodel evaluate")
    results = read_json(root / "results.json")
    try:
        with np.load(root / "arrays.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile, zlib and NumPy have errors of their own for a damaged file
        raise ValueError(f"{root}/arrays.npz is missing or damaged ({error}); evaluate again") from error
    drawings = _drawings(results, arrays)
    pictures = {name: draw(LIGHT) for name, draw in drawings.items()}
    for name, content in {**pictures, **_rollout_files(arrays)}.items():
        write_bytes(root / name, content)

    def shown(name: str, alt: str) -> Html:
        """A picture in both themes; the light one is drawn already."""
        return themed(lambda theme: pictures[name] if theme is LIGHT else drawings[name](theme), alt)

    file = root / "report.html"
    write_bytes(file, _page(results, arrays, shown).encode())
    return file


def _drawings(results: Mapping[str, Any], arrays: Arrays) -> dict[str, Callable[[Theme], bytes]]:
    """The figures, by the names of their files."""
    trained = results["models"]["trained"]
    found: dict[str, Callable[[Theme], bytes]] = {
        "open_loop.png": lambda theme: figures.open_loop_picture(trained["open_loop"], theme)
    }
    if "probes" in trained:
        found["probes.png"] = lambda theme: figures.probe_picture(trained, arrays, theme)
    if "plannability" in trained:
        found["plannability.png"] = lambda theme: figures.cost_picture(results, arrays, theme)
    if trained.get("surprise", {}).get("events"):
        found["surprise.png"] = lambda theme: figures.trace_picture(trained, arrays, theme)
        found["surprise_auroc.png"] = lambda theme: figures.auroc_picture(results["models"], theme)
    return found


def _rollout_files(arrays: Arrays) -> dict[str, bytes]:
    if "rollout.true" not in arrays:
        return {}
    moving = rollout_video(arrays)
    video = encode_mp4(moving, fps=5, side=moving.shape[-1], hold=5)
    return {"rollouts.png": encode_png(rollout_strip(arrays)), "rollouts.mp4": video}


def _page(results: Mapping[str, Any], arrays: Arrays, shown: Shown) -> str:
    trained = results["models"]["trained"]
    sections = [
        section(
            "Imagined beside true",
            p(_ROLLOUT.format(context=_frames(results["context"]))),
            attempt("imagined rollouts", lambda: _rollouts(arrays)),
        ),
        section(
            "How far imagination drifts",
            p(_OPEN_LOOP),
            _narrow(shown("open_loop.png", "error over steps")),
        ),
        section("What the latent knows of the state", p(_PROBES), _probes(trained, shown)),
        section("Does the cost tell the distance?", p(_COST), _cost(results, shown)),
        section("What surprises it", p(_SURPRISE), _surprise(results, arrays, shown)),
        section("Does it listen to actions?", p(_ACTIONS), _actions(trained)),
        section("All figures", figures_table(results)),
    ]
    name = Path(results["model"])
    called = name.parent.name if name.name == "model" else name.name
    lede = (
        f"Measured on {results['held_out']} held-out episodes of {results['env_id'] or results['data']}; probes and "
        f"baselines are fitted to {results['train']} others. Intervals are 95%, by resampling episodes."
    )
    notes = [div("gap", *[remark(note) for note in results["notes"]])] if results["notes"] else []
    return page(f"World model: {called}", lede, *notes, *sections)


def figures_table(results: Mapping[str, Any]) -> Html:
    """All figures, a column for each model."""
    models = list(results["models"])
    names = {"trained": "This model", "untrained": "Untrained control"}
    rows = [[what, *cells, note] for what, cells, note in rows_of(results)]
    return table(["", *[names.get(m, m) for m in models], "Beside it"], rows)


def _narrow(picture: Html) -> Html:
    return el("div", {"style": "max-width: 760px"}, picture)


def _frames(count: int) -> str:
    return "one given frame" if count == 1 else f"{count} given frames"


def _rollouts(arrays: Arrays) -> Html:
    if "rollout.true" not in arrays:
        return remark("Left out: pictures need a pixel decoder; run worldmodel evaluate with decoder=true.")
    groups = []
    for i in range(len(arrays["rollout.true"])):
        columns = spread(arrays["rollout.true"].shape[1], _COLUMNS)
        captions = ["given" if t == 0 else f"step {t}" for t in columns]
        rows = [
            FilmRow(label, note, [arrays[f"rollout.{key}"][i, t] for t in columns], captions if last else ())
            for key, label, note, last in _ROWS
        ]
        groups.append(div("film-group", film(rows)))
    moving = looping(rollout_video(arrays), "true, decoded and imagined episodes", 5)
    names = div("panels", *[el("span", {"class": "panel"}, label) for _, label, _, _ in _ROWS])
    shown = el("figure", {"class": "wide-video", "style": "max-width: 640px"}, names, moving)
    return join([shown, *groups])


#: Rows of a strip: key, label, note, whether captions stand below.
_ROWS = (
    ("true", "True", "frames of the episode", False),
    ("decoded", "Decoded", "their latents, decoded: what the decoder can show", False),
    ("imagined", "Imagined", "latents from the first frame and the actions, decoded", True),
)


def rollout_video(arrays: Arrays) -> np.ndarray:
    """True, decoded and imagined side by side, one episode after another: ``(frames, C, H, W)``."""
    shown = [upscale(arrays[f"rollout.{key}"], 200) for key, *_ in _ROWS]
    rows = []
    for i in range(len(shown[0])):
        panels = [part[i] for part in shown]
        gap = np.full((*panels[0].shape[:2], _GAP, panels[0].shape[-1]), 255, np.uint8)
        row = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=2)
        rows.append(np.concatenate([row, row[-1:].repeat(3, axis=0)]))
    frames = np.moveaxis(np.concatenate(rows), -1, 1)
    return np.ascontiguousarray(frames[:, :, : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2])


def rollout_strip(arrays: Arrays) -> np.ndarray:
    """The first episode's true, decoded and imagined frames as one picture ``(H, W, 3)``."""
    columns = spread(arrays["rollout.true"].shape[1], _COLUMNS)
    rows = []
    for key, *_ in _ROWS:
        cells = upscale(arrays[f"rollout.{key}"][0][columns], 96)
        rows.append(
            np.concatenate([np.pad(c, ((0, 4), (0, 4), (0, 0)), constant_values=255) for c in cells], 1)
        )
    return np.concatenate(rows)


def _probes(trained: Mapping[str, Any], shown: Shown) -> Html:
    if "probes" not in trained:
        return remark("Left out: the data have no states.")
    parts = [shown("probes.png", "what a linear probe reads, and the truth")]
    count = len(trained["probes"]["linear"]["targets"])
    if count > figures._SHOWN_TARGETS:
        parts.append(remark(f"The first {figures._SHOWN_TARGETS} of {count} are drawn; the table has all."))
    return join(parts)


def _cost(results: Mapping[str, Any], shown: Shown) -> Html:
    if "plannability" not in results["models"]["trained"]:
        return remark("Left out: the true distance is not known.")
    bins = results["models"]["trained"]["plannability"]["all"]["bins"]
    rows = [[f"{b['low']:.2f} to {b['high']:.2f}", f"{b['pairs']:,}", f"{b['rho']:.2f}"] for b in bins]
    return join(
        [
            shown("plannability.png", "latent cost against true distance"),
            table([results["distance"].capitalize(), "Pairs", "ρ among them"], rows),
        ]
    )


def _surprise(results: Mapping[str, Any], arrays: Arrays, shown: Shown) -> Html:
    trained = results["models"]["trained"]
    found = trained.get("surprise", {"events": {}, "unavailable": {"all events": "not asked for"}})
    parts = [remark(f"Not available: {event}; {why}.") for event, why in found["unavailable"].items()]
    if found["events"]:
        parts += [
            shown("surprise.png", "surprise around events"),
            _narrow(shown("surprise_auroc.png", "AUROC of each event")),
            attempt("examples", lambda: _examples(found["events"], arrays)),
        ]
    return join(parts)


def _examples(events: Mapping[str, Any], arrays: Arrays) -> Html:
    groups = []
    for event in events:
        if f"example.{event}.edited" not in arrays:
            continue
        parts = [arrays[f"example.{event}.{part}"] for part in ("true", "edited")]
        span = found_span(parts[0], parts[1])
        captions = ["" if t < span else "event" for t in range(len(parts[1]))]
        title = figures._EVENT_TITLES.get(event, event)
        rows = [FilmRow(title, "as it was", list(parts[0])), FilmRow("", "edited", list(parts[1]), captions)]
        groups.append(div("film-group", film(rows)))
    return join(groups)


def found_span(true: np.ndarray, edited: np.ndarray) -> int:
    """The first frame that differs."""
    differs = (true != edited).reshape(len(true), -1).any(axis=1)
    return int(differs.argmax()) if differs.any() else len(true)


def _actions(trained: Mapping[str, Any]) -> Html:
    rows = [
        [
            d["name"],
            f"{d['value']:.2f}",
            f"{d['interval'][0]:.2f} to {d['interval'][1]:.2f}" if d["interval"] else "–",
        ]
        for d in trained["sensitivity"]["dimensions"]
    ]
    return table(["Action", "Effect of ±1 std, in steps", "95% interval"], rows)


_ROLLOUT = (
    "From {context} and the actions that followed, the model imagines on its own. A decoder that was trained "
    "afterwards, for looking only, draws its latents. Compare the imagined row with the decoded one: what the decoder "
    "cannot draw is missing in both."
)
_OPEN_LOOP = (
    "Each model has its own latents, so compare a curve with the others of the same plot only. The linear dynamics and "
    "the mean come from training episodes."
)
_PROBES = (
    "Small maps from latent to true state, fitted to training episodes and scored on held-out ones. What a probe "
    "cannot read (a velocity, from one frame), a planner cannot aim at."
)
_COST = (
    "A planner looks for small latent distance to the goal. Spearman's ρ says whether the cost orders pairs of moments "
    "as the true distance does; the difference of pixels is what needs no model. Where the medians are flat, the cost "
    "gives no direction."
)
_SURPRISE = (
    "Surprise is the distance between the predicted latent and that of the frame which came. Held-out episodes are "
    "edited: they go on elsewhere, change colours, freeze while actions move, or pass a wall. A guess that nothing "
    "moves, in latents or in pixels, notices jumps as well; understanding is what goes beyond it."
)
_ACTIONS = (
    "How far the prediction of a step moves when one dimension of the action changes by two standard deviations, as a "
    "multiple of how far latents move in a step."
)
