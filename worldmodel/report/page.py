"""The frame of every page: head, style and sections. A page is one file that opens without a server."""

from __future__ import annotations

from worldmodel.report.markup import Html, el
from worldmodel.report.style import style_sheet


def page(title: str, lede: str, *content: Html) -> str:
    """A whole HTML document."""
    head = el(
        "head",
        None,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("title", None, title),
        el("style", None, Html(style_sheet())),
    )
    main = el("main", None, el("h1", None, title), el("p", {"class": "lede"}, lede), *content)
    return f"<!DOCTYPE html>\n{el('html', {'lang': 'en'}, head, el('body', None, main))}\n"


def section(title: str, *content: Html) -> Html:
    """A part of the page under its heading."""
    return el("section", None, el("h2", None, title), *content)
