"""Return probabilities: the kernels against powers of the dense matrix, and PyG's transform."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.bench.graphs import directed, path_graph, random_graph, token_graph, undirected
from state_core.errors import BackendError, InputError
from state_core.ops.random_walk_pe import cpu, random_walk_pe

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


def assert_backends_agree(graph: tuple[Tensor, Tensor], steps: int, weights: Tensor | None) -> None:
    got = random_walk_pe(*graph, steps, weights, backend="cpu")
    expected = random_walk_pe(*graph, steps, weights, backend="naive")
    assert got.shape == (len(graph[0]) - 1, steps)
    assert got.dtype == expected.dtype == (torch.float32 if weights is None else weights.dtype)
    assert torch.allclose(got, expected, rtol=0, atol=TOLERANCE[got.dtype])


def symmetric_weights(graph: tuple[Tensor, Tensor]) -> Tensor:
    tails = torch.arange(len(graph[0]) - 1).repeat_interleave(graph[0].diff()).double()
    heads = graph[1].double()
    return (1 + torch.minimum(tails, heads)) / (2 + torch.maximum(tails, heads))


@settings(max_examples=60)
@given(st.integers(1, 60), st.floats(0, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_undirected_walks_equal_powers(nodes: int, density: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = undirected(nodes, *torch.randint(nodes, (2, int(nodes * density)), generator=generator))
    weights = symmetric_weights(graph)
    weights[weights < 0.1] = 0
    for given_weights in (None, weights, weights.float()):
        assert_backends_agree(graph, steps, given_weights)


@settings(max_examples=60)
@given(st.integers(1, 60), st.floats(0, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_directed_walks_equal_powers(nodes: int, density: float, steps: int, seed: int) -> None:
    """Loops and repeated arcs among them."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, int(nodes * density)), generator=generator)
    graph = directed(nodes, *torch.cat([pairs, pairs[:, ::3]], dim=1))
    weights = torch.rand(len(graph[1]), generator=generator, dtype=torch.float64)
    weights[::4] = 0
    for given_weights in (None, weights, weights.float()):
        assert_backends_agree(graph, steps, given_weights)


@pytest.mark.parametrize("graph", [token_graph(200, 8, 8, 4), path_graph(150), random_graph(99, 2)])
def test_equals_pyg(graph: tuple[Tensor, Tensor]) -> None:
    transforms = pytest.importorskip("torch_geometric.transforms")
    data = pytest.importorskip("torch_geometric.data")
    tails = torch.arange(len(graph[0]) - 1).repeat_interleave(graph[0].diff())
    edges = torch.stack([tails, graph[1].long()])
    other = data.Data(edge_index=edges, num_nodes=len(graph[0]) - 1)
    expected = transforms.AddRandomWalkPE(12)(other).random_walk_pe
    assert torch.allclose(random_walk_pe(*graph, 12), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_a_walk_on_a_path_comes_back_as_coins_do(backend: str) -> None:
    """In the middle of a long path, 2m steps return with probability C(2m, m) / 4^m."""
    pe = random_walk_pe(*path_graph(65), 8, torch.ones(128).double(), backend=backend)[32]
    for m in range(1, 5):
        assert float(pe[2 * m - 1]) == pytest.approx(math.comb(2 * m, m) / 4**m, abs=1e-14)
        assert float(pe[2 * m - 2]) == 0


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_a_cycle_of_arcs_is_back_after_a_round(backend: str) -> None:
    at = torch.arange(40)
    pe = random_walk_pe(*directed(40, at, (at + 1) % 40), 41, backend=backend)
    assert torch.equal(pe, torch.eye(41)[39].expand(40, 41))


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_nodes_without_arcs_are_zero(backend: str) -> None:
    pe = random_walk_pe(*directed(3, torch.tensor([1]), torch.tensor([1])), 3, backend=backend)
    assert pe.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    none = torch.zeros(0, dtype=torch.int32)
    assert random_walk_pe(torch.zeros(1).long(), none, 3, backend=backend).shape == (0, 3)
    assert random_walk_pe(torch.zeros(2).int(), none, 2, backend=backend).tolist() == [[0, 0]]


@pytest.mark.parametrize("both_ways", [False, True])
def test_same_bits_for_any_number_of_threads(
    both_ways: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "SMALL", 0)
    graph = token_graph(300) if both_ways else directed(300, *torch.randint(300, (2, 900)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = random_walk_pe(*graph, 7)
        torch.set_num_threads(2)
        assert torch.equal(random_walk_pe(*graph, 7), alone)
    finally:
        torch.set_num_threads(before)


def test_custom_op_is_registered_soundly() -> None:
    indptr, indices = random_graph(20, 4)
    for dtype in (torch.float32, torch.float64):
        weights = torch.rand(len(indices), dtype=dtype)
        torch.library.opcheck(cpu.random_walk_pe, (indptr, indices, 3, weights))


def test_bad_input_and_devices_are_refused() -> None:
    indptr, indices = path_graph(5)
    with pytest.raises(InputError, match="at least 1 step, got 0"):
        random_walk_pe(indptr, indices, 0)
    with pytest.raises(InputError, match="rise from 0"):
        random_walk_pe(indptr[:-1], indices, 3)
    with pytest.raises(InputError, match="finite and at least 0"):
        random_walk_pe(indptr, indices, 3, torch.full((8,), -1.0))
    with pytest.raises(BackendError, match="random_walk_pe cannot run on meta"):
        random_walk_pe(indptr, indices.to("meta"), 3)
