"""The graph's views agree with its rows."""

from __future__ import annotations

import pytest
import torch

from state_core import build_graph
from state_core.config import GraphConfig
from state_core.graph import EdgeKind, TokenGraph
from tests.graph.test_graph_builder import random_state


@pytest.fixture
def graph() -> TokenGraph:
    return build_graph(random_state(40, batch=2, words=15), GraphConfig(window=3, successor=True))


def _edges(graph: TokenGraph) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in graph.edge_index.T}


def test_edge_index_lists_the_rows(graph: TokenGraph) -> None:
    expected = set()
    for b in range(2):
        for i in range(40):
            expected |= {(40 * b + i, 40 * b + j) for j in graph.rows(b, i).neighbors.tolist()}
    assert _edges(graph) == expected
    assert len(graph.kind) == len(graph.weight) == len(expected)
    assert bool((graph.edge_index[1] <= graph.edge_index[0]).all())


def test_csr_rows(graph: TokenGraph) -> None:
    row = graph.rows(1, 7)
    start, end = graph.indptr[40 + 7], graph.indptr[40 + 8]
    assert torch.equal(graph.edge_index[1, start:end] - 40, row.neighbors.long())
    assert torch.equal(graph.weight[start:end], row.weights)


def test_subgraph_and_complement_share_out_the_edges(graph: TokenGraph) -> None:
    semantic = graph.subgraph(kinds=[EdgeKind.SEMANTIC])
    rest = graph.complement(semantic)
    assert set(semantic.kind.tolist()) == {int(EdgeKind.SEMANTIC)}
    assert _edges(semantic) | _edges(rest) == _edges(graph)
    assert not _edges(semantic) & _edges(rest)
    assert semantic.counts.sum() + rest.counts.sum() == graph.counts.sum()


def test_filters(graph: TokenGraph) -> None:
    near = graph.subgraph(nodes=range(10))
    assert all(i % 40 < 10 and j % 40 < 10 for i, j in _edges(near))
    strong = graph.subgraph(min_weight=0.6)
    assert 0 < len(strong.weight) < len(graph.weight)
    assert bool((strong.weight >= 0.6).all())
    keep = torch.arange(len(graph.kind)) % 3 == 0
    assert torch.equal(graph.subgraph(keep=keep).edge_index, graph.edge_index[:, keep])


def test_explain(graph: TokenGraph) -> None:
    row = graph.rows(0, 39)
    j = int(row.neighbors[row.kinds == EdgeKind.SEMANTIC][0])
    edge = graph.explain(0, 39, j)
    assert edge.kind is EdgeKind.SEMANTIC
    assert edge.rank == 1
    assert edge.contributions[edge.dominant] == max(edge.contributions.values())
    assert "number 1 in similarity" in str(edge)
    assert "itself" in str(graph.explain(0, 39, 39))
    assert "window" in str(graph.explain(0, 39, 37))
    successors = row.neighbors[row.kinds == EdgeKind.SUCCESSOR]
    after = graph.explain(0, 39, int(successors[0]))
    assert after.via == after.target - 1
    assert graph.explain(0, 39, after.via).kind is EdgeKind.SEMANTIC


def test_stats(graph: TokenGraph) -> None:
    stats = graph.stats()
    assert stats.edges == graph.edge_index.shape[1] == sum(stats.kinds.values())
    assert stats.out_degree == pytest.approx(stats.edges / 80)
    assert sum(stats.block_shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert {n for n, s in stats.block_shares.items() if s > 0} == {"I", "R2", "K"}
    assert stats.reciprocity == 0.0, "a causal graph has no edge back"


def test_networkx_view(graph: TokenGraph) -> None:
    pytest.importorskip("networkx", reason="networkx is an extra")
    view = graph.to_networkx(1)
    assert {(40 + i, 40 + j) for i, j in view.edges} == {e for e in _edges(graph) if e[0] >= 40}
    data = view.edges[39, 39]
    assert data["kind"] == "sequential"
    assert data["weight"] == pytest.approx(1.0, abs=1e-5)


def test_pyg_view(graph: TokenGraph) -> None:
    pytest.importorskip("torch_geometric", reason="torch-geometric is an extra")
    batch = graph.to_pyg()
    assert batch.num_graphs == 2
    assert batch.x.shape == (80, 64)
    flows = {(int(i), int(j)) for j, i in batch.edge_index.T}
    assert flows == _edges(graph)
