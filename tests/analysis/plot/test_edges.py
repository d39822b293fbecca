"""Figures draw the edges that were asked for, in few traces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from state_core import EdgeKind
from state_core.analysis.plots import ARC_POINTS, adjacency, arc_diagram, loss_curves
from state_core.errors import InputError, MissingExtraError
from tests.analysis.conftest import spell


def arcs(figure) -> int:
    """How many arcs a figure draws."""
    return sum(len(t.x) // (ARC_POINTS + 1) for t in figure.data if t.mode == "lines")


def test_all_edges_of_the_kinds_asked_for(out):
    kinds = torch.bincount(out.graph.kinds[1][out.graph._mask[1]].long(), minlength=4).tolist()
    whole = arc_diagram(out.graph, 1, kinds=[EdgeKind.SINK, EdgeKind.SEQUENTIAL], per_token=None)
    assert arcs(whole) == kinds[EdgeKind.SINK] + kinds[EdgeKind.SEQUENTIAL]
    assert {t.name for t in whole.data if t.name} == {"sink", "sequential"}


def test_one_token_is_its_row(out):
    figure = out.graph.plot(0, token=40)
    kinds = out.graph.rows(0, 40).kinds
    shown = (kinds == EdgeKind.SEMANTIC) | (kinds == EdgeKind.SUCCESSOR)
    assert arcs(figure) == int(shown.sum())


def test_the_best_edges_of_each_token_and_kind(out):
    figure = arc_diagram(out.graph, 0, kinds=[EdgeKind.SEMANTIC], per_token=2)
    best = [min(2, int((out.graph.rows(0, i).kinds == EdgeKind.SEMANTIC).sum())) for i in range(60)]
    assert arcs(figure) == sum(best)


def test_hovering_tells_why(out, ids):
    names = spell(ids[0].tolist())
    names[0] = " <b>"
    figure = arc_diagram(out.graph, 0, names, kinds=[EdgeKind.SINK], per_token=None)
    (hover,) = [t for t in figure.data if t.mode == "markers"]
    first = next(text for text in hover.text if "(0)" in text)
    assert "&lt;b&gt;" in first
    said = out.graph.explain(0, int(first.split("(")[1].split(")")[0]), 0)
    assert f"weight {said.weight:+.3f}" in first
    assert f"{said.dominant} {said.contributions[said.dominant]:+.3f}" in first


def test_arcs_end_at_their_tokens(out):
    figure = arc_diagram(out.graph, 0, token=50, kinds=[EdgeKind.SEMANTIC])
    ends = {
        (round(line[0]), round(line[ARC_POINTS - 1]))
        for t in figure.data
        if t.mode == "lines"
        for line in np.asarray(t.x).reshape(-1, ARC_POINTS + 1)
    }
    row = out.graph.rows(0, 50)
    assert ends == {(50, j) for j in row.neighbors[row.kinds == EdgeKind.SEMANTIC].tolist()}


def test_adjacency_holds_every_edge(out):
    figure = adjacency(out.graph, 1)
    points = {(y, x) for t in figure.data for x, y in zip(t.x, t.y)}
    source, target = out.graph.edge_index - out.graph.num_nodes
    mine = source >= 0
    assert points == set(zip(source[mine].tolist(), target[mine].tolist()))


def test_loss_curves(tmp_path):
    records = [{"kind": "train", "step": n, "loss": 9 - n / 10} for n in range(50)]
    figure = loss_curves({"a": records, "b": records})
    assert [t.name for t in figure.data if t.name] == ["a", "b"]
    with pytest.raises(InputError, match="no record"):
        loss_curves({"empty": tmp_path})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b": 2}, "text 2 is out of range"),
        ({"token": 60}, "token 60 is out of range"),
        ({"tokens": ["a"]}, "1 token texts for a graph of 60"),
    ],
)
def test_bad_input(out, arguments, message):
    with pytest.raises(InputError, match=message):
        arc_diagram(out.graph, **arguments)


def test_without_plotly(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[plots\]"):
        out.graph.plot()


def test_a_long_text_has_few_traces(model):
    ids = torch.randint(64, (1, 1000))
    graph = model(ids, return_graph=True).graph
    assert len(arc_diagram(graph, kinds=list(EdgeKind), per_token=None).data) <= 20
