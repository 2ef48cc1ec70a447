"""The report's building blocks: pictures, videos, filmstrips, bars and tables as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.report.figures import Bar
from worldmodel.report.markup import Html, div, el, join, span
from worldmodel.report.theme import DARK, LIGHT, Theme
from worldmodel.report.video import data_uri, encode_mp4, encode_png, upscale

#: Width of frames in filmstrips, in pixels: about two for each CSS pixel.
_CELL = 192


def remark(text: str) -> Html:
    """A plain remark on what is not shown."""
    return el("p", {"class": "remark"}, text)


def attempt(what: str, build: Callable[[], Html]) -> Html:
    """A part of the page, or a remark where its files are missing or damaged."""
    try:
        return build()
    except (ValueError, OSError) as error:
        return remark(f"Left out: {what}. {error}")


def percent(low: float, high: float) -> str:
    """An interval of rates, e.g. ``46–78%``."""
    return f"{low:.0%}–{high:.0%}".replace("%–", "–")


def image(frame: np.ndarray, alt: str, side: int = 256) -> Html:
    """A frame ``(3 or 4, H, W)`` uint8, upscaled with crisp edges."""
    attributes: dict[str, str | bool] = {
        "src": data_uri(encode_png(upscale(frame, side)), "image/png"),
        "alt": alt,
    }
    height, width = frame.shape[-2:]
    if height != width:
        attributes["style"] = f"aspect-ratio: {width} / {height}"
    return el("img", attributes)


def video(frames: np.ndarray, label: str) -> Html:
    """Frames ``(T, C, H, W)`` uint8 as a looping video that needs no click."""
    first = data_uri(encode_png(upscale(frames[0])), "image/png")
    attributes: dict[str, str | bool] = {"autoplay": True, "loop": True, "muted": True, "playsinline": True}
    source = data_uri(encode_mp4(frames, hold=8), "video/mp4")
    return el("video", {**attributes, "poster": first, "aria-label": label, "src": source})


def looping(frames: np.ndarray, label: str, fps: int) -> Html:
    """Frames ``(T, C, H, W)`` uint8 as a looping video of their own size and rate."""
    poster = data_uri(encode_png(np.moveaxis(frames[0], 0, -1)), "image/png")
    attributes: dict[str, str | bool] = {"autoplay": True, "loop": True, "muted": True, "playsinline": True}
    source = data_uri(encode_mp4(frames, fps=fps, side=frames.shape[-1]), "video/mp4")
    return el("video", {**attributes, "poster": poster, "aria-label": label, "src": source})


def themed(draw: Callable[[Theme], bytes], alt: str) -> Html:
    """A figure in both themes; the browser shows the one that fits."""
    dark = {"srcset": data_uri(draw(DARK), "image/png"), "media": "(prefers-color-scheme: dark)"}
    light = {"src": data_uri(draw(LIGHT), "image/png"), "alt": alt}
    return el("picture", None, el("source", dark), el("img", light))


def goal_and_video(goal: np.ndarray, frames: np.ndarray, caption: Html) -> Html:
    """A goal picture beside the video of an episode that was to reach it."""
    shown = div("goal", el("span", None, "Goal"), image(goal, "goal picture"))
    moving = div("agent", el("span", None, "Agent"), video(frames, "the agent moving to the goal"))
    return el(
        "figure",
        {"class": "card"},
        div("pair", shown, moving),
        el("figcaption", None, caption),
    )


@dataclass(frozen=True)
class FilmRow:
    """One row of a filmstrip.

    Attributes:
        label, note: What it shows, in bold and small.
        frames: ``(C, H, W)`` uint8 each; None leaves the place empty.
        captions: Below the frames; empty: none.
        goal: A picture in front of them, called ``goal_name``.
        holes: Frames are RGBA with transparent places.
    """

    label: str
    note: str
    frames: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()
    goal: np.ndarray | None = None
    goal_name: str = "goal"
    holes: bool = False


def film(rows: Sequence[FilmRow]) -> Html:
    """Rows of frames whose columns line up."""
    return div("scroll", div("film", *[_film_row(row) for row in rows]))


def _film_row(row: FilmRow) -> Html:
    cells = []
    if row.goal is not None:
        cells += [_cell(row.goal, row.goal_name, "cell goal-cell"), el("span")]
    captions = row.captions or [""] * len(row.frames)
    css = "cell holes" if row.holes else "cell"
    columns = {
        "class": "cells with-goal" if row.goal is not None else "cells",
        "style": f"--n: {len(captions)}",
    }
    cells += [_cell(frame, caption, css) for frame, caption in zip(row.frames, captions, strict=True)]
    return div(
        "film-row",
        div("film-label", el("b", None, row.label), el("span", None, row.note)),
        el("div", columns, *cells),
    )


def _cell(frame: np.ndarray | None, caption: str, css: str) -> Html:
    if frame is None:
        return el("figure", {"class": css})
    note = el("figcaption", None, caption) if caption else Html("")
    return el("figure", {"class": css}, image(frame, caption or "frame", _CELL), note)


def success_bars(bars: Sequence[Bar]) -> Html:
    """Success rates with their intervals and counts."""
    return join([_success_bar(bar) for bar in bars])


def _success_bar(bar: Bar) -> Html:
    fill = el("div", {"class": "fill", "style": f"width: {bar.rate:.1%}"})
    place = f"left: {bar.low:.1%}; width: {bar.high - bar.low:.1%}"
    head = div(
        "bar-head",
        span("name", bar.label),
        span("num", f"{bar.successes}/{bar.episodes}"),
        span("ci", percent(bar.low, bar.high)),
    )
    track = div("track", fill, el("div", {"class": "interval", "style": place}))
    return div("ours" if bar.accent else "other", head, track)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1, ours: int = -1) -> Html:
    """A table.

    Args:
        heads: Column names; none for a table without them.
        rows: Cells of each row.
        numbers_from: First column that holds numbers, set to the right.
        ours: Row to set apart.
    """

    def cells(tag: str, values: Sequence[str]) -> list[Html]:
        return [
            el(tag, {"class": "n"} if i >= numbers_from else None, value) for i, value in enumerate(values)
        ]

    body = [
        el("tr", {"class": "ours"} if i == ours else None, *cells("td", row)) for i, row in enumerate(rows)
    ]
    head = [el("tr", None, *cells("th", heads))] if heads else []
    return div("wide", el("table", None, *head, *body))


def legend(entries: Sequence[tuple[str, str, bool]]) -> Html:
    """Names of lines: ``(label, colour's name, dashed)``."""
    items = []
    for label, color, dashed in entries:
        swatch = el("i", {"class": "dashed" if dashed else "solid", "style": f"border-color: var(--{color})"})
        items.append(el("span", None, swatch, label))
    return div("legend", *items)


def stage_row(name: str, what: str, command: str, seconds: float, longest: float) -> Html:
    """A stage with its time as a bar, and its command."""
    share = seconds / longest if longest > 0 else 0.0
    track = div("track", el("div", {"class": "fill", "style": f"width: {share:.1%}"}))
    title = el("span", None, el("b", None, name), span("small", what))
    return div(
        "stage",
        div(
            "stage-head",
            title,
            track,
            span("num", f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"),
        ),
        el("code", None, command),
    )
