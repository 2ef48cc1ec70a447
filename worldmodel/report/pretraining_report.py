"""The report of a pretraining: ``report.html``, ``features.png`` and ``features.mp4`` in the run's directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from worldmodel.atomic import write_bytes
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.report import pretraining_page as parts
from worldmodel.report.feature_film import ENOUGH, Film, read_film, side_by_side, strip_png
from worldmodel.report.markup import Html, div, p
from worldmodel.report.page import page, section
from worldmodel.report.parts import attempt, remark
from worldmodel.report.pretraining_run import Facts, PretrainingRun
from worldmodel.report.retrieval import ClipBank
from worldmodel.report.retrieval_page import neighbours
from worldmodel.report.training_curves import run_curves
from worldmodel.report.video import encode_mp4

TRAINED, UNTRAINED = "Trained", "Untrained"
_KINDS = {"target_norm": "V-JEPA", "normalise": "VideoMAE"}
_TITLES = {"Unmasked": "Self-supervised"}
#: Films on the page: the first moves, all are shown as strips.
_FILMS = 4


def write_pretraining_report(
    run_directory: str | Path,
    encoder: VideoEncoder | None,
    untrained: VideoEncoder | None,
    clips: ClipBank | None,
    facts: Facts | None = None,
    *,
    scale: float = 1.0,
) -> Path:
    """Write the page and keep beside it what it needs to be made again (see ``remake_pretraining_report``).

    Args:
        run_directory: With ``config.json`` and ``metrics.jsonl``.
        encoder: What was trained, the EMA weights where there are some; None leaves its pictures out.
        untrained: The same network before training: the control of every picture; None leaves it out.
        clips: Clips that training never saw, best 16 to 64 of several videos: for retrieval, masks and pictures.
        facts: Sources, skipped files, command, videos to show.
        scale: Size of the feature pictures' input, as a multiple of the training's; 2 gives finer maps.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: There is no run in the directory.
        OSError: The disk is full or not writable.
    """
    run, facts = PretrainingRun(Path(run_directory)), facts or Facts()
    run.keep(facts, clips)
    return _write(run, encoder, untrained, clips, facts, scale)


def remake_pretraining_report(run_directory: str | Path, *, scale: float = 1.0) -> Path:
    """Write the page again from the run's directory alone.

    The untrained encoder is made again from the configuration and its seed, as ``worldmodel pretrain`` makes it.

    Raises:
        FileNotFoundError: There is no run in the directory.
        ValueError: A file in it is damaged.
    """
    run = PretrainingRun(Path(run_directory))
    untrained = None
    with torch.random.fork_rng(devices=[]):
        encoder = run.encoder()
        if encoder is not None:
            torch.manual_seed(int(run.config.get("seed", 0)))
            untrained = VideoEncoder(encoder.config)
    return _write(run, encoder, untrained, run.clips(), run.facts(), scale)


def _write(
    run: PretrainingRun,
    encoder: VideoEncoder | None,
    untrained: VideoEncoder | None,
    clips: ClipBank | None,
    facts: Facts,
    scale: float,
) -> Path:
    named = [(TRAINED, "", encoder), (UNTRAINED, "control", untrained)]
    # In evaluation mode for the pictures, and as before afterwards: the caller may go on training.
    encoders = [(name, note, e) for name, note, e in named if e is not None]
    modes = [e.training for *_, e in encoders]
    try:
        for *_, e in encoders:
            e.eval()
        films, trouble = _films(encoder, clips, facts)
        try:
            painted = parts.paint(encoders, clips, films, scale) if encoders else []
        except ValueError as error:
            painted, trouble = [], [*trouble, str(error)]
        file = run.path / "report.html"
        write_bytes(file, _build(run, encoders, clips, facts, painted, trouble).encode())
        if painted:
            _write_pictures(run.path, painted[0])
    finally:
        for (*_, e), mode in zip(encoders, modes, strict=True):
            e.train(mode)
    return file


def _films(
    encoder: VideoEncoder | None, clips: ClipBank | None, facts: Facts
) -> tuple[list[Film], list[str]]:
    """Pieces of the videos that were named, then clips of the bank until there are enough."""
    films: list[Film] = []
    trouble: list[str] = []
    for path in facts.videos[:_FILMS]:
        if encoder is None:
            break
        c = encoder.config
        # Rotary positions go on beyond the square that was trained with; a table of positions would be stretched.
        multiple = c.patch_size if c.positions.startswith("rope") else 0
        try:
            films.append(read_film(path, c.image_size, fps=facts.clip_fps or 8.0, multiple=multiple))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            trouble.append(f"{path}: {reason}" if reason else str(error))
    if clips is not None and len(films) < 3:
        films += parts.films_of(clips, 3 - len(films))
    return films, trouble


def _write_pictures(path: Path, painted: parts.Painted) -> None:
    """A film's strip and video as files of their own, for slides and README files."""
    shown = painted.film
    write_bytes(path / "features.png", strip_png(shown, painted.features))
    moving = side_by_side([shown.frames, *painted.features.values()])
    video = encode_mp4(moving, fps=max(1, round(shown.fps or 8)), side=moving.shape[-1])
    write_bytes(path / "features.mp4", video)


def _build(
    run: PretrainingRun,
    encoders: parts.Encoders,
    clips: ClipBank | None,
    facts: Facts,
    painted: Sequence[parts.Painted],
    trouble: Sequence[str],
) -> str:
    rows = run.metrics()
    # Which objective it was shows in its settings: a target's normalisation, or pixels'.
    objective = run.config.get("objective") or {}
    masked = bool(run.config.get("mask"))
    kind = next(
        (name for key, name in _KINDS.items() if key in objective), "Masked" if masked else "Unmasked"
    )
    encoder = encoders[0][2] if encoders and encoders[0][0] == TRAINED else None
    title = f"{_TITLES.get(kind, kind)} pretraining: {run.path.name}"

    def with_encoder(what: str, build: Callable[[], Html]) -> Html:
        if not encoders:
            return remark(f"Left out: {what}, because the run has no model yet.")
        return attempt(what, build)

    hero = [attempt("the run in numbers", lambda: parts.key_facts(run, facts, rows, encoder))]
    if painted:
        hero.insert(0, attempt("the video", lambda: parts.feature_video(painted[0])))
    sections = [
        attempt("the monitors' diagnosis", lambda: parts.diagnosis(rows, run.config)),
        section(
            "What the features see",
            p(_FEATURES.format(shared=_SHARED if clips is not None and len(clips) >= ENOUGH else "")),
            *[remark(f"Left out: {text}") for text in trouble],
            with_encoder(
                "pictures of the features",
                lambda: parts.feature_strips(painted, {name: note for name, note, _ in encoders}),
            ),
        ),
    ]
    if clips is not None and len(clips) > 2:
        sections.append(
            section(
                "Nearest clips",
                p(_NEIGHBOURS),
                with_encoder("the nearest clips", lambda: neighbours(encoders, clips)),
            )
        )
    curves = (
        attempt("the curves", lambda: run_curves(rows))
        if rows
        else remark("Left out: the curves; nothing is logged yet.")
    )
    sections += [
        section("Training", p(_TRAINING), parts.plot_legend(), curves),
        *(
            [section("What is hidden", p(_hidden(kind, objective)), _masks(run, encoder, clips))]
            if masked
            else []
        ),
        section("Probes", attempt("the probes", lambda: parts.probe_table(run))),
        section("What it was trained on", attempt("the sources", lambda: parts.sources(facts))),
        section("How to repeat it", attempt("the command", lambda: parts.repeat(run, facts))),
    ]
    return page(title, _LEDES[kind], div("run-hero", *hero), *sections)


def _hidden(kind: str, objective: Mapping[str, Any]) -> str:
    """What is done with the hidden part."""
    if objective.get("predictor") == "none":
        kind = "no predictor"
    text = _HIDDEN[kind]
    if objective.get("target_encoder") == "online":
        text = text.replace("the target encoder, which", "the same encoder, without gradient, which")
    return text


def _masks(run: PretrainingRun, encoder: VideoEncoder | None, clips: ClipBank | None) -> Html:
    if encoder is None or clips is None:
        return remark("Left out: the masks, because the run has no model or kept no clips.")
    film = parts.films_of(clips, 1)[0]
    return attempt("the masks", lambda: parts.masks(run.config, encoder, film.frames, film.name))


_LEDES = {
    "V-JEPA": "A video encoder that learned without labels: parts of a clip were hidden from it, and it had to predict "
    "the features of what is hidden.",
    "VideoMAE": "A video encoder that learned without labels: most of a clip was hidden from it, and it had to predict "
    "the hidden pixels.",
    "Masked": "A video encoder that learned without labels: parts of a clip were hidden from it, and it had to "
    "predict them.",
    "Unmasked": "A video encoder that learned without labels, from whole clips.",
}
_HIDDEN = {
    "V-JEPA": "The context encoder computes the visible tokens only. The predictor is told which tokens are missing, "
    "and predicts their features; the target encoder, which sees the full clip, says what they are.",
    "no predictor": "The encoder is given the clip with mask tokens in place of the hidden patches, and a linear layer "
    "predicts their features; the target encoder, which sees the full clip, says what they are.",
    "VideoMAE": "The encoder computes the visible tokens only. The decoder predicts the pixels of the missing ones.",
    "Masked": "What the encoder sees of a clip; the rest is to be predicted.",
}
_FEATURES = (
    "Patch features as colours: the first three principal components of each film's tokens as red, green and blue. "
    "{shared}Like colours mean like features, within one row. The untrained network shows what the architecture alone "
    "gives."
)
_SHARED = "What all clips share at a place (mostly its position) is subtracted first. "
_NEIGHBOURS = (
    "Each clip is the mean of its tokens; clips are ranked by the cosine between them. Clips that share a moment "
    "with the query are left out. Among few, unlike videos colours are enough to tell them apart: read the trained "
    "encoder's share against the controls."
)
_TRAINING = (
    "The loss alone tells nothing: it also falls while features collapse. Spread and rank must stay up."
)
