"""HTML is escaped by construction."""

from __future__ import annotations

from worldmodel.report.markup import Html, div, el, join, p


def test_text_is_escaped_once_and_html_is_not() -> None:
    inner = el("b", None, "a < b & c")
    assert inner == "<b>a &lt; b &amp; c</b>"
    assert div("x", inner, "</div>") == f'<div class="x">{inner}&lt;/div&gt;</div>'
    assert join([inner, Html("<br>")]) == f"{inner}<br>"


def test_attributes_are_escaped_and_may_be_bare() -> None:
    tag = el("img", {"alt": '"><script>', "hidden": True, "muted": False})
    assert tag == '<img alt="&quot;&gt;&lt;script&gt;" hidden>'


def test_a_paragraph_keeps_the_name_of_the_method_on_one_line() -> None:
    assert p("V-JEPA & <b>") == '<p><span class="nb">V-JEPA</span> &amp; &lt;b&gt;</p>'
