"""Betweenness: the kernel against Brandes' algorithm as published, and both against networkx."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.bench.graphs import directed, path_graph, random_graph, token_graph, undirected
from state_core.errors import BackendError, InputError
from state_core.ops.betweenness import betweenness, cpu

Graph = tuple[Tensor, Tensor]


def networkx_betweenness(graph: Graph, kind: type = nx.Graph, normalized: bool = True) -> Tensor:
    nodes = len(graph[0]) - 1
    tails = torch.arange(nodes).repeat_interleave(graph[0].diff())
    other = kind()
    other.add_nodes_from(range(nodes))
    other.add_edges_from(zip(tails.tolist(), graph[1].tolist(), strict=True))
    scores = nx.betweenness_centrality(other, normalized=normalized)
    return torch.tensor([scores[v] for v in range(nodes)], dtype=torch.float64)


def close(got: Tensor, expected: Tensor) -> bool:
    return torch.allclose(got, expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=40)
@given(st.integers(1, 50), st.floats(0, 4), st.integers(0, 2**31))
def test_undirected_graphs_equal_networkx(nodes: int, density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = undirected(nodes, *torch.randint(nodes, (2, int(nodes * density)), generator=generator))
    expected = networkx_betweenness(graph)
    for backend in ("cpu", "naive"):
        assert close(betweenness(*graph, backend=backend), expected)


@settings(max_examples=40)
@given(st.integers(1, 50), st.floats(0, 4), st.integers(0, 2**31))
def test_directed_graphs_equal_networkx(nodes: int, density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, int(nodes * density)), generator=generator)
    graph = directed(nodes, *pairs.unique(dim=1))
    expected = networkx_betweenness(graph, nx.DiGraph, normalized=False)
    for backend in ("cpu", "naive"):
        assert close(betweenness(*graph, normalized=False, backend=backend), expected)


@settings(max_examples=30)
@given(st.integers(3, 40), st.floats(0, 4), st.integers(1, 60), st.integers(0, 2**31))
def test_backends_agree_on_loops_repeated_arcs_and_pivots(
    nodes: int, density: float, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, int(nodes * density)), generator=generator)
    graph = directed(nodes, *torch.cat([pairs, pairs[:, ::2]], dim=1))
    pivots = torch.randint(nodes, (count,), generator=generator)
    got = betweenness(*graph, pivots, backend="cpu")
    assert close(got, betweenness(*graph, pivots, backend="naive"))


def test_an_unnormalised_pair_counts_in_both_directions() -> None:
    assert betweenness(*path_graph(4), normalized=False).tolist() == [0, 4, 4, 0]
    expected = 2 * networkx_betweenness(path_graph(4), normalized=False)
    assert betweenness(*path_graph(4), normalized=False).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "graph", [token_graph(300, 8, 8, 4), path_graph(200), random_graph(300, 2)]
)
def test_larger_graphs_equal_networkx(graph: Graph) -> None:
    assert close(betweenness(*graph), networkx_betweenness(graph))


def test_every_node_as_pivot_is_exact_and_few_come_near() -> None:
    graph = token_graph(400, 4, 4)
    exact = betweenness(*graph)
    assert close(betweenness(*graph, 400), exact)
    assert close(betweenness(*graph, torch.arange(400).flip(0)), exact)
    few = betweenness(*graph, 80)
    assert torch.equal(few, betweenness(*graph, torch.arange(0, 400, 5)))
    assert 0.9 < float(few.sum() / exact.sum()) < 1.1
    assert float(torch.corrcoef(torch.stack([few, exact]))[0, 1]) > 0.8


def test_same_bits_for_any_number_of_threads() -> None:
    graph = token_graph(500, 4, 4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = betweenness(*graph)
        torch.set_num_threads(2)
        assert torch.equal(betweenness(*graph), alone)
    finally:
        torch.set_num_threads(before)


def test_large_graphs_have_few_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = token_graph(200, 4, 4)
    expected = betweenness(*graph)
    monkeypatch.setattr(cpu, "SUMS", 200)
    assert close(betweenness(*graph), expected)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_small_graphs_are_zero(nodes: int, backend: str) -> None:
    graph = path_graph(nodes) if nodes else (torch.zeros(1).long(), torch.zeros(0).int())
    assert betweenness(*graph, backend=backend).tolist() == [0.0] * nodes


def ladder(rungs: int) -> Graph:
    """Each rung doubles the shortest paths."""
    at = 3 * torch.arange(rungs)
    tails = torch.cat([at, at, at + 1, at + 2])
    return undirected(3 * rungs + 1, tails, torch.cat([at + 1, at + 2, at + 3, at + 3]))


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_more_paths_than_float64_counts_is_an_error(backend: str) -> None:
    assert bool(betweenness(*ladder(1000), 2, backend=backend).isfinite().all())
    with pytest.raises(InputError, match="more shortest paths than float64 can count"):
        betweenness(*ladder(1100), 2, backend=backend)


def test_custom_op_is_registered_soundly() -> None:
    torch.library.opcheck(cpu.betweenness, (*random_graph(20, 4), torch.arange(7)))


@pytest.mark.parametrize(
    ("pivots", "message"),
    [
        (0, "1 to 5 pivots"),
        (6, "1 to 5 pivots"),
        (torch.tensor([5]), "pivots must be within 0 … 4"),
        (torch.tensor([0.0]), r"pivots \[P\] int32 or int64"),
        (torch.tensor([]).long(), "P > 0"),
    ],
)
def test_bad_pivots_are_a_clear_error(pivots: int | Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        betweenness(*path_graph(5), pivots)


def test_bad_graphs_and_devices_are_refused() -> None:
    indptr, indices = path_graph(5)
    with pytest.raises(InputError, match="rise from 0"):
        betweenness(indptr[:-1], indices)
    with pytest.raises(BackendError, match="betweenness cannot run on meta"):
        betweenness(indptr, indices.to("meta"))
