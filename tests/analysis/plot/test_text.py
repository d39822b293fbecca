"""What the pictures of attributions hold."""

from __future__ import annotations

import pytest

from state_core.analysis import attribution_plots as plots
from state_core.analysis.attribution import Part, attribute
from state_core.analysis.faithfulness import faithfulness
from state_core.errors import InputError
from tests.invariants.variants import build, text


def test_a_text_is_coloured_by_what_its_tokens_give() -> None:
    tree = attribute(build("as recommended"), text(1, 40), 30)
    words = ["<b>", "\n", *(f" word{n}" for n in range(38))]
    figure = plots.attribution(tree, words, 30)
    assert len(figure.layout.annotations) == 31
    assert figure.layout.annotations[0].text == "&lt;b&gt;"
    given = plots.token_shares(tree)
    edges = [p for p in tree if "edge to" in p.path.rsplit("/", 1)[-1]]
    assert sum(given.values()) == pytest.approx(sum(p.share for p in edges))
    most = max(abs(s) for s in given.values())
    strong = [s for s in given.values() if abs(s) >= plots.FAINTEST * most]
    assert len(figure.layout.shapes) == len(strong)
    with pytest.raises(InputError, match="position 9"):
        plots.attribution(tree, words[:9], 9)


def test_lines_are_broken_at_their_width_and_at_breaks() -> None:
    places = plots._places(["a" * 50, "b" * 50, "c\n", "d"])
    assert places == [(0, 0), (1, 0), (1, 50), (2, 0)]
    assert plots.token_shares(Part("p", 1.0)) == {}


def test_curves_are_drawn_once_for_each_side() -> None:
    curves = faithfulness(build("as recommended"), text(1, 40), [20, 30])
    figure = plots.faithfulness(curves)
    assert [t.name for t in figure.data if t.showlegend] == [c.method for c in curves]
    assert len(figure.data) == 2 * len(curves)
    assert list(figure.data[0].y) == pytest.approx(curves[0].deletion.tolist())
