"""A text coloured by attribution holds the real shares, and fits the page."""

from __future__ import annotations

import pytest

from state_core.analysis import plot
from state_core.analysis.attribution import Part, attribute, token_shares
from state_core.analysis.plot.text import COLUMNS, ENDING, FAINTEST, MOST_LINES, _lines
from state_core.errors import InputError
from tests.invariants.variants import build, text


def coloured(figure) -> dict[int, float]:
    """Token and share of each piece of text that tells one."""
    hovers = [a.hovertext for a in figure.layout.annotations if a.hovertext]
    pairs = (h.removeprefix("token ").split(": ") for h in hovers)
    return {int(token): float(share.rstrip("%")) / 100 for token, share in pairs}


def test_a_text_is_coloured_by_what_its_tokens_give() -> None:
    tree = attribute(build("as recommended"), text(1, 40), 30)
    words = ["<b>", "\n", *(f" word{n}" for n in range(38))]
    figure = plot.attribution(tree, words, 30)
    written = "".join(a.text for a in figure.layout.annotations)
    assert written.replace("&nbsp;", " ") == "&lt;b&gt;↵" + "".join(words[2:31])
    given = token_shares(tree)
    edges = [p for p in tree if "edge to" in p.path.rsplit("/", 1)[-1]]
    assert sum(given.values()) == pytest.approx(sum(p.share for p in edges))
    most = max(abs(s) for s in given.values())
    strong = {i: s for i, s in given.items() if abs(s) >= FAINTEST * most or i == 30}
    assert coloured(figure) == pytest.approx(strong, abs=6e-4)
    framed = [a for a in figure.layout.annotations if a.bordercolor != "rgba(0,0,0,0)"]
    assert [a.text for a in framed] == ["&nbsp;word28"]
    with pytest.raises(InputError, match="position 9"):
        plot.attribution(tree, words[:9], 9)


def test_lines_are_broken_at_their_width_and_at_breaks() -> None:
    assert _lines(["a" * 50, "b" * 50, "c\n", "d"]) == [[0], [1, 2], [3]]
    assert token_shares(Part("p", 1.0)) == {}


def test_a_long_text_is_its_telling_lines_and_its_end() -> None:
    words = ["word\n"] * 200
    votes = tuple(Part(f"pointer/edge to {i}", 1 / 50) for i in range(0, 150, 3))
    figure = plot.attribution(Part("p", 1.0, votes), words, 199)
    rows = {a.y for a in figure.layout.annotations}
    assert len(rows) == MOST_LINES
    assert len(coloured(figure)) == MOST_LINES - ENDING + 1
    left_out = 200 - MOST_LINES
    assert f"{left_out} of 200 lines" in figure.layout.title.subtitle.text
    assert max(len(a.text.replace("&nbsp;", " ")) for a in figure.layout.annotations) <= COLUMNS
