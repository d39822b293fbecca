"""Text never becomes markup, and a page asks for nothing from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from state_core.analysis.html import Html, data_script, join, page, tag


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = st.text(alphabet="<>&\"'/=! -a\n") | st.sampled_from(
    ["</script><script>alert(1)</script>", '"><img onerror=x>', "<!--", "]]>", "\u2028", "&lt;"]
)


@given(HOSTILE, HOSTILE)
def test_text_and_attributes_come_out_as_they_went_in(text: str, value: str):
    read = Reader(tag("p", text, title=value))
    assert read.elements == [("p", {"title": value})]
    assert read.text == text


@given(st.dictionaries(HOSTILE, HOSTILE))
def test_data_cannot_leave_its_script(value: dict[str, str]):
    markup = data_script("x", value)
    inner = re.fullmatch(r'<script type="application/json" id="x">(.*)</script>', markup, re.S)
    assert inner is not None
    assert not set("<>&") & set(inner[1])
    assert json.loads(inner[1]) == value


def test_markup_is_kept_and_nested():
    assert (
        tag("ul", [tag("li", x) for x in ("a", "<b>")]) == "<ul><li>a</li><li>&lt;b&gt;</li></ul>"
    )
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_attributes():
    assert tag("input", type="checkbox", checked=True, disabled=False, title=None) == (
        '<input type="checkbox" checked>'
    )
    assert tag("p", class_="x", data_graph="g") == '<p class="x" data-graph="g"></p>'


def test_a_page_may_load_nothing():
    text = page("A <title>", tag("p", "body"), scripts=["explorer.js"])
    policy = next(a for n, a in Reader(text).elements if n == "meta" and "http-equiv" in a)
    assert policy["content"] == (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
        "connect-src 'none'"
    )
    assert "connect-src 'self'" in page("A page that is served", asks=True)
    assert "<title>A &lt;title&gt;</title>" in text
    assert not re.search(r"\b(src|href)=|url\(|@import|https?://", text)
