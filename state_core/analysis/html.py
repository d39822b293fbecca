"""Markup that cannot be broken by what it shows: text is escaped unless it is markup already.

    tag("p", "a < b", tag("b", "bold"), class_="note")   →  <p class="note">a &lt; b<b>bold</b></p>

A page holds everything it needs and is forbidden to load anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, TypeAlias

VOID = {"br", "hr", "img", "input", "meta"}


class Html(str):
    """Markup, to be inserted as it is."""


Child: TypeAlias = "str | Iterable[Child]"
"""Text, markup, or any nesting of them."""


def tag(name: str, *children: Child, **attributes: object) -> Html:
    """An element. Children that are no `Html` are escaped; iterables of children are laid out.

    class_ and for_ lose their underscore, others become hyphens; None and False leave an attribute
    out, True gives it no value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other."""
    parts = (_text(child) if isinstance(child, str) else join(child) for child in children)
    return Html("".join(parts))


def data_script(identifier: str, value: Any) -> Html:
    """JSON for a script of the page; no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def page(title: str, *body: str, scripts: Iterable[str] = (), asks: bool = False) -> str:
    """A whole document with the package's style sheet and the named scripts inside. asks: whether
    its scripts may ask the server that it came from, which is all they can ever reach."""
    return Template(static("page.html")).substitute(
        title=escape(title),
        connect="'self'" if asks else "'none'",
        style=static("page.css"),
        body=join(body),
        script="\n".join(static(name) for name in scripts),
    )


def static(name: str) -> str:
    """A file that comes with the package."""
    return (files("state_core.analysis") / "static" / name).read_text(encoding="utf-8")


def _text(child: str) -> str:
    return child if isinstance(child, Html) else escape(child)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
