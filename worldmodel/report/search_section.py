"""The part of a page that shows how an agent searched, where ``worldmodel plan pictures=N`` kept it."""

from __future__ import annotations

from pathlib import Path

from worldmodel.report.markup import Html, el, join
from worldmodel.report.page import section
from worldmodel.report.parts import attempt, themed
from worldmodel.report.search_pictures import PICTURES
from worldmodel.report.search_record import SearchRecord


def searches(run: Path) -> list[Html]:
    """A section for each task whose searches were kept."""
    found = []
    for file in sorted((run / "search").glob("*.npz")):
        shown = attempt("pictures of the search", lambda file=file: _pictures(file))  # type: ignore[misc]
        found.append(section(f"How it searched: task {int(file.stem)}", shown))
    return found


def _pictures(file: Path) -> Html:
    record = SearchRecord.load(file)
    parts = []
    for name, picture, meaning in PICTURES:
        if name == "futures":
            meaning = _futures(record)
        parts += [
            el("p", {"class": "gap"}, meaning),
            themed(lambda theme, draw=picture: draw(record, theme), name),  # type: ignore[misc]
        ]
    return join(parts)


def _futures(record: SearchRecord) -> str:
    """The sentence of the futures, which differs where there is nothing imagined."""
    if not len(record.imagined):
        return (
            "The plan, executed to its end in the world, above what came: where they differ, replanning changed its "
            "mind. There is no row of what was imagined, because the simulator does that without error."
        )
    said = next(meaning for name, _, meaning in PICTURES if name == "futures")
    return f"{said} Imagined latents are shown {record.viewer}."
