"""The graph's figures draw the edges that were asked for, and say what they leave out."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from state_core import EdgeKind
from state_core.analysis import plot
from state_core.analysis.plot.edges import ARC_POINTS, MOST_ARCS, MOST_CELLS
from state_core.errors import InputError, MissingExtraError
from tests.analysis.conftest import spell


def arcs(figure) -> int:
    """How many arcs a figure draws."""
    return sum(len(t.x) // (ARC_POINTS + 1) for t in figure.data if t.mode == "lines")


def note(figure) -> str:
    return figure.layout.title.subtitle.text


def test_all_edges_of_the_kinds_asked_for(out):
    kinds = torch.bincount(out.graph.kinds[1][out.graph._mask[1]].long(), minlength=4).tolist()
    whole = plot.arcs(out.graph, 1, kinds=[EdgeKind.SINK, EdgeKind.SEQUENTIAL], per_token=None)
    assert arcs(whole) == kinds[EdgeKind.SINK] + kinds[EdgeKind.SEQUENTIAL]
    assert {t.name for t in whole.data if t.name} == {"sink", "sequential"}
    assert note(whole) == f"all {arcs(whole)} sequential and sink edges"


def test_one_token_is_its_row(out):
    figure = out.graph.plot(0, token=40)
    kinds = out.graph.rows(0, 40).kinds
    shown = (kinds == EdgeKind.SEMANTIC) | (kinds == EdgeKind.SUCCESSOR)
    assert arcs(figure) == int(shown.sum())


def test_the_best_edges_of_each_token_and_kind(out):
    figure = plot.arcs(out.graph, 0, kinds=[EdgeKind.SEMANTIC], per_token=2)
    rows = [out.graph.rows(0, i) for i in range(60)]
    semantic = [row.weights[row.kinds == EdgeKind.SEMANTIC] for row in rows]
    best = [sorted(weights.tolist(), reverse=True)[:2] for weights in semantic]
    assert arcs(figure) == sum(map(len, best))
    hovers = [text for t in figure.data if t.mode == "markers" for text in t.text]
    told = sorted(float(text.split("weight ")[1].split("<br>")[0]) for text in hovers)
    assert told == pytest.approx(sorted(w for row in best for w in row), abs=6e-4)
    known = sum(map(len, semantic))
    assert note(figure) == f"{arcs(figure)} of {known} semantic edges are drawn, the heaviest"


def test_hovering_tells_why(out, ids):
    names = spell(ids[0].tolist())
    names[0] = " <b>"
    figure = plot.arcs(out.graph, 0, names, kinds=[EdgeKind.SINK], per_token=None)
    (hover,) = [t for t in figure.data if t.mode == "markers"]
    first = next(text for text in hover.text if "(0)" in text)
    assert "&lt;b&gt;" in first
    said = out.graph.explain(0, int(first.split("(")[1].split(")")[0]), 0)
    assert f"weight {said.weight:+.3f}" in first
    assert f"{said.dominant} {said.contributions[said.dominant]:+.3f}" in first


def test_arcs_end_at_their_tokens(out):
    figure = plot.arcs(out.graph, 0, token=50, kinds=[EdgeKind.SEMANTIC])
    ends = {
        (round(line[0]), round(line[ARC_POINTS - 1]))
        for t in figure.data
        if t.mode == "lines"
        for line in np.asarray(t.x).reshape(-1, ARC_POINTS + 1)
    }
    row = out.graph.rows(0, 50)
    assert ends == {(50, j) for j in row.neighbors[row.kinds == EdgeKind.SEMANTIC].tolist()}


def test_thicker_arcs_are_heavier(out):
    figure = plot.arcs(out.graph, 0, kinds=[EdgeKind.SEMANTIC], token=59)
    lines = sorted((t for t in figure.data if t.mode == "lines"), key=lambda t: t.line.width)
    ends = [np.asarray(t.x).reshape(-1, ARC_POINTS + 1)[:, ARC_POINTS - 1].round() for t in lines]
    weights = [[out.graph.explain(0, 59, int(j)).weight for j in group] for group in ends]
    assert len(weights) > 1
    assert all(max(thin) <= min(thick) for thin, thick in itertools.pairwise(weights))


def test_adjacency_holds_every_edge(out):
    figure = out.graph.plot(1, view="adjacency")
    points = {(y, x) for t in figure.data for x, y in zip(t.x, t.y)}
    source, target = out.graph.edge_index - out.graph.num_nodes
    mine = source >= 0
    assert points == set(zip(source[mine].tolist(), target[mine].tolist()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b": 2}, "text 2 is out of range"),
        ({"token": 60}, "token 60 is out of range"),
        ({"tokens": ["a"]}, "1 token texts for a graph of 60"),
        ({"view": "arc"}, "did you mean 'arcs'"),
    ],
)
def test_bad_input(out, arguments, message):
    with pytest.raises(InputError, match=message):
        out.graph.plot(**arguments)


def test_without_plotly(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[plots\]"):
        out.graph.plot()


def test_the_model_knows_no_plots():
    code = (
        "import sys, state_core; state_core.TokenGraph, state_core.SOSM\n"
        "print([m for m in sys.modules if 'plot' in m or 'state_core.analysis' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_thousand_tokens_are_drawn_small_and_soon(model):
    ids = torch.randint(64, (1, 2000))
    graph = model(ids, return_graph=True).graph
    began = time.process_time()
    drawn = plot.arcs(graph, kinds=list(EdgeKind), per_token=None)
    matrix = plot.adjacency(graph)
    blocks = plot.blocks(graph)
    size = sum(len(figure.to_json()) for figure in (drawn, matrix, blocks))
    assert time.process_time() - began < 20
    assert size < 3e6
    assert len(drawn.data) <= 20
    assert arcs(drawn) == MOST_ARCS
    assert note(drawn).startswith(f"{MOST_ARCS:,} of {len(graph.weight):,}")


def test_a_long_text_is_a_matrix_of_counts(model):
    ids = torch.randint(64, (1, MOST_CELLS * 2 + 1))
    graph = model(ids, return_graph=True).graph
    figure = plot.adjacency(graph)
    (cells,) = figure.data
    source, target = (end.numpy() for end in graph.edge_index)
    expected = np.zeros_like(cells.z)
    np.add.at(expected, (source // 3, target // 3), 1)
    assert (np.asarray(cells.z) == expected).all()
    assert (cells.x0, cells.dx) == (1, 3)
    assert "cells of 3 × 3 tokens" in note(figure)
