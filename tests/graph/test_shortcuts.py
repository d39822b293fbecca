"""Shortcuts lead where they say, from the finished prefix only, and the same in every run."""

from __future__ import annotations

import pytest
import torch

from state_core import GraphStream, State, build_graph
from state_core.config import GraphConfig
from state_core.graph import EdgeKind, GraphBuilder, TokenGraph
from state_core.graph.shortcuts import best_bridges, fibonacci_targets, random_targets
from tests.graph.test_graph_builder import LAYOUT, random_state

BRIDGES = GraphConfig(
    window=2, k_base=3, adaptive_k=False, shortcuts="betweenness", shortcut_count=3, chunk=10
)
CHAIN = (torch.tensor([0, 1, 3, 5, 7, 8]), torch.tensor([1, 0, 2, 1, 3, 2, 4, 3]).int())


def targets(graph: TokenGraph, b: int, i: int) -> list[int]:
    row = graph.rows(b, i)
    return row.neighbors[row.kinds == EdgeKind.SHORTCUT].tolist()


def text_edges(graph: TokenGraph, b: int, border: int) -> set[tuple[int, int]]:
    """Edges of the finished prefix that are neither loops, sinks nor shortcuts."""
    found = set()
    for i in range(border):
        row = graph.rows(b, i)
        for j, kind in zip(row.neighbors.tolist(), row.kinds.tolist(), strict=True):
            if i != j and kind not in (EdgeKind.SINK, EdgeKind.SHORTCUT):
                found.add((i, j))
    return found


def test_bridges_are_the_most_between_of_the_finished_prefix() -> None:
    networkx = pytest.importorskip("networkx", reason="networkx is an extra")
    graph = build_graph(random_state(60, batch=2, words=25), BRIDGES)
    assert graph.stats().kinds["shortcut"] > 0
    for b in range(2):
        for border in range(10, 60, 10):
            prefix = networkx.Graph()
            prefix.add_nodes_from(range(border))
            prefix.add_edges_from(text_edges(graph, b, border))
            score = networkx.betweenness_centrality(prefix)
            best = sorted(score, key=lambda j: (-round(score[j], 9), -j))[:3]
            for i in range(border, border + 10):
                row = graph.rows(b, i)
                others = row.neighbors[row.kinds != EdgeKind.SHORTCUT].tolist()
                sinks = row.neighbors[row.kinds == EdgeKind.SINK].tolist()
                expected = [j for j in best if j not in set(others) - set(sinks) and i - j > 2]
                assert targets(graph, b, i) == expected


def test_the_middle_of_a_chain_is_its_bridge() -> None:
    assert best_bridges(*CHAIN, 2).tolist() == [2, 3], "of equals the most recent"
    assert best_bridges(*CHAIN, 9).tolist() == [2, 3, 1, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("kind", ["betweenness", "random", "fibonacci"])
def test_a_stream_has_the_shortcuts_of_the_whole(kind: str) -> None:
    state, config = random_state(47, words=15), BRIDGES.model_copy(update={"shortcuts": kind})
    builder = GraphBuilder(config, LAYOUT).eval()
    whole, stream = builder(state), GraphStream(1)
    for a, b in ((0, 9), (9, 10), (10, 11), (11, 31), (31, 47)):
        part = State(state.semantic[:, a:b], state.temporal[:, a:b], LAYOUT)
        assert torch.equal(builder(part, stream).neighbors, whole.neighbors[:, a:b])


def test_random_shortcuts_are_spread_and_repeatable() -> None:
    config = BRIDGES.model_copy(update={"shortcuts": "random", "shortcut_count": 8})
    positions = torch.arange(2000)[None]
    drawn = random_targets(positions, config)
    assert torch.equal(drawn, random_targets(positions, config))
    real = drawn >= 0
    assert bool((drawn < positions[..., None] - config.window)[real].all())
    rows = [row[row >= 0].tolist() for row in drawn[0, 20:]]
    assert all(len(set(row)) == len(row) for row in rows)
    share = (drawn / (positions[..., None] - config.window))[real & (positions > 100)[..., None]]
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.std() == pytest.approx(12**-0.5, abs=0.02)


def test_fibonacci_shortcuts_begin_beyond_the_window() -> None:
    config = BRIDGES.model_copy(update={"shortcuts": "fibonacci", "shortcut_count": 4})
    back = 100 - fibonacci_targets(torch.tensor([[100]]), config)
    assert back.tolist() == [[[3, 5, 8, 13]]]
    wide = config.model_copy(update={"window": 8})
    assert fibonacci_targets(torch.tensor([[20]]), wide).tolist() == [[[7, -1, -1, -1]]]


def test_a_bidirectional_graph_has_the_bridges_of_the_whole() -> None:
    networkx = pytest.importorskip("networkx", reason="networkx is an extra")
    graph = build_graph(random_state(40, words=15), BRIDGES.model_copy(update={"causal": False}))
    whole = networkx.Graph(text_edges(graph, 0, 40))
    score = networkx.betweenness_centrality(whole)
    best = sorted(score, key=lambda j: (-round(score[j], 9), -j))[:3]
    assert {j for i in range(40) for j in targets(graph, 0, i)} <= set(best)
    assert any(j > i for i in range(40) for j in targets(graph, 0, i))


def test_a_shortcut_is_explained() -> None:
    graph = build_graph(random_state(60, words=25), BRIDGES)
    i = next(i for i in range(59, 0, -1) if targets(graph, 0, i))
    edge = graph.explain(0, i, targets(graph, 0, i)[0])
    assert edge.kind is EdgeKind.SHORTCUT
    assert "across the text" in str(edge)
