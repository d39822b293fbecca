"""Blocks, the gate and landmarks: the figures hold what the graph holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from state_core import EdgeKind, TokenGraph
from state_core.analysis import plot
from state_core.analysis.plot import gates, shares
from state_core.errors import InputError
from tests.invariants.variants import VARIANTS, build, text


@pytest.fixture(scope="module")
def graph() -> TokenGraph:
    with torch.no_grad():
        return build("all of the graph")(text(2, 60), return_graph=True).graph


def note(figure) -> str:
    return figure.layout.title.subtitle.text or ""


def test_bars_of_blocks_add_up_to_the_mean_weight(out):
    figure = plot.blocks(out.graph, 1)
    bars = [t for t in figure.data if t.type == "bar" and t.xaxis == "x"]
    assert [t.name for t in bars] == ["I", "R2", "K"]
    for i in range(60):
        row = out.graph.rows(1, i)
        weights = row.weights[row.kinds == EdgeKind.SEMANTIC]
        mean = float(weights.mean()) if len(weights) else 0.0
        assert sum(t.y[i] for t in bars) == pytest.approx(mean, abs=1e-5)
    (dots,) = [t for t in figure.data if t.name == "weight"]
    assert list(dots.y) == pytest.approx([sum(t.y[i] for t in bars) for i in range(60)])


def test_bars_of_kinds_are_their_means(out):
    bars = [t for t in plot.blocks(out.graph, 0).data if t.type == "bar" and t.xaxis == "x2"]
    mine = out.graph.edge_index[0] < 60
    for n, kind in enumerate(bars[0].x):
        of = mine & (out.graph.kind == EdgeKind[kind.upper()])
        mean = float(out.graph.weight[of].mean())
        assert sum(t.y[n] for t in bars) == pytest.approx(mean, abs=1e-5)


def test_many_blocks_are_drawn_as_a_few_and_the_others():
    graph = build("full similarity")(text(1, 40), return_graph=True).graph
    figure = plot.blocks(graph)
    bars = [t for t in figure.data if t.type == "bar" and t.xaxis == "x2"]
    assert len(bars) == len(shares.COLOURS)
    assert bars[-1].name.endswith(" others")
    semantic = graph.weight.detach()[graph.kind == EdgeKind.SEMANTIC]
    at = list(bars[0].x).index("semantic")
    assert sum(t.y[at] for t in bars) == pytest.approx(float(semantic.mean()), abs=1e-5)


def test_no_semantic_edges_no_blocks():
    graph = build("no semantic edges")(text(1, 20), return_graph=True).graph
    with pytest.raises(InputError, match="no semantic edge"):
        plot.blocks(graph)
    assert plot.blocks(graph, kind=EdgeKind.SEQUENTIAL).data


def test_a_long_text_is_drawn_by_runs(model):
    graph = model(torch.randint(64, (1, 450)), return_graph=True).graph
    figure = plot.blocks(graph)
    bars = [t for t in figure.data if t.type == "bar" and t.xaxis == "x"]
    assert len(bars[0].y) == 150
    run = (graph.edge_index[0] // 3 == 100) & (graph.kind == EdgeKind.SEMANTIC)
    assert sum(t.y[100] for t in bars) == pytest.approx(
        float(graph.weight[run].detach().mean()), abs=1e-5
    )
    assert "3 tokens at a time" in note(figure)


def test_the_gate_is_shown_of_what_passed_and_what_was_refused(graph):
    config = VARIANTS["all of the graph"].graph
    figure = plot.gate(graph, 1, config)
    points = {t.legendgroup: t for t in figure.data if t.mode == "markers"}
    for name, of in (("passed", graph), ("refused", graph.refused)):
        mine = (of.edge_index[0] >= 60) & (of.kind == EdgeKind.SEMANTIC)
        assert mine.sum() > 0
        assert sorted(points[name].y) == pytest.approx(sorted(of.gate[mine].tolist()))
        assert sorted(points[name].x) == pytest.approx(sorted(of.weight[mine].tolist()))
    refused = points["refused"]
    due = np.asarray(refused.y) > config.tau_temp
    assert not (due & (np.asarray(refused.x) > config.tau_mu)).any()
    assert len(figure.layout.shapes) == 3
    means = [t for t in figure.data if t.mode == "lines+markers"]
    for t in means:
        together = np.average(t.y, weights=t.customdata)
        assert together == pytest.approx(np.mean(points[t.legendgroup].y))


def test_many_judged_edges_are_thinned_evenly(graph, monkeypatch):
    monkeypatch.setattr(gates, "MOST_POINTS", 10)
    figure = plot.gate(graph)
    shown = [len(t.x) for t in figure.data if t.mode == "markers"]
    assert shown == [10, 10]
    assert "10 that passed and 10 that were refused" in note(figure)


def test_no_gate_no_picture_of_one(out):
    with pytest.raises(InputError, match=r"graph\.temporal_gate = true"):
        plot.gate(out.graph)


def test_landmarks_and_their_hops(graph):
    names = [f"w{i}" for i in range(60)]
    figure = plot.landmarks(graph, 1, names)
    cells, rings = figure.data
    chosen = [int(p) for p in graph.landmarks[1] if p >= 0]
    assert list(rings.x) == chosen
    assert list(figure.layout.yaxis.ticktext) == [f"w{p} ({p})" for p in chosen]
    hops = graph.coordinates[1].T[graph.landmarks[1] >= 0].float().numpy()
    assert np.array_equal(np.asarray(cells.z), np.where(hops < 0, np.nan, hops), equal_nan=True)


def test_no_landmarks_no_picture_of_them(out):
    with pytest.raises(InputError, match=r"graph\.landmarks"):
        plot.landmarks(out.graph)
    short = build("landmarks")(text(1, 4), return_graph=True).graph
    with pytest.raises(InputError, match="before its first landmarks"):
        plot.landmarks(short)
