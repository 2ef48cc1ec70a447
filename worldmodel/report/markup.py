"""HTML that is escaped by construction: text becomes safe on its way into an element."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_VOID = ("br", "img", "meta", "source")


class Html(str):
    """Text that is HTML already. Anything else is escaped when an element takes it."""

    __slots__ = ()


def el(tag: str, attributes: Mapping[str, str | bool] | None = None, *children: str) -> Html:
    """An element.

    Args:
        tag: Its name.
        attributes: Values are escaped; True writes the bare name, False leaves it out.
        children: ``Html`` is taken as it is, other text is escaped.
    """
    words = [tag]
    for name, value in (attributes or {}).items():
        if value is True:
            words.append(name)
        elif value is not False:
            words.append(f'{name}="{escape(value)}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening if tag in _VOID else f"{opening}{join(children)}</{tag}>")


def div(css: str, *children: str) -> Html:
    """A ``div`` of a CSS class."""
    return el("div", {"class": css}, *children)


def span(css: str, *children: str) -> Html:
    """A ``span`` of a CSS class."""
    return el("span", {"class": css}, *children)


def p(*children: str) -> Html:
    """A paragraph. "V-JEPA" is not broken over two lines in it."""
    return Html(el("p", None, *children).replace("V-JEPA", '<span class="nb">V-JEPA</span>'))


def join(children: tuple[str, ...] | list[Html]) -> Html:
    """Pieces one after another, each escaped unless it is ``Html``."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))
