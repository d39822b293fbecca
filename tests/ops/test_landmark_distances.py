"""Landmark distances: the kernels against the plain reference and SciPy, on all kinds of graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.bench.graphs import directed, path_graph, random_graph, token_graph, undirected
from state_core.errors import BackendError, InputError
from state_core.ops.landmark_distances import cpu, landmark_distances

Graph = tuple[Tensor, Tensor]


def scipy_distances(graph: Graph, landmarks: Tensor, weights: Tensor | None) -> np.ndarray:
    sparse, csgraph = (
        pytest.importorskip("scipy.sparse"),
        pytest.importorskip("scipy.sparse.csgraph"),
    )
    nodes = len(graph[0]) - 1
    tails = torch.arange(nodes).repeat_interleave(graph[0].diff())
    table = torch.full((nodes, nodes), torch.inf, dtype=torch.float64)
    lengths = torch.ones(len(tails)) if weights is None else weights
    for u, v, w in zip(tails.tolist(), graph[1].tolist(), lengths.tolist(), strict=True):
        table[u, v] = min(float(table[u, v]), w)  # SciPy adds up parallel arcs
    arcs = csgraph.csgraph_from_dense(table.numpy(), null_value=np.inf)
    assert sparse.issparse(arcs)
    return csgraph.dijkstra(arcs, indices=landmarks.numpy()).T


def some_graph(nodes: int, arcs: int, both_ways: bool, seed: int) -> Graph:
    """Random arcs, loops and repeated ones among them."""
    generator = torch.Generator().manual_seed(seed)
    tails, heads = torch.randint(nodes, (2, arcs), generator=generator)
    if both_ways:
        tails, heads = torch.cat([tails, heads]), torch.cat([heads, tails])
    return directed(nodes, tails, heads)


@settings(max_examples=60)
@given(
    st.integers(1, 60),
    st.floats(0, 4),
    st.booleans(),
    st.integers(1, 150),
    st.integers(0, 2**31),
)
def test_backends_equal_scipy(
    nodes: int, density: float, both_ways: bool, count: int, seed: int
) -> None:
    graph = some_graph(nodes, int(nodes * density), both_ways, seed)
    landmarks = torch.randint(nodes, (count,))
    got = landmark_distances(*graph, landmarks, backend="cpu")
    assert got.dtype == torch.int32
    assert torch.equal(got, landmark_distances(*graph, landmarks, backend="naive"))
    expected = scipy_distances(graph, landmarks, None)
    expected[np.isinf(expected)] = -1
    assert np.array_equal(got.numpy(), expected)


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0, 4), st.booleans(), st.integers(0, 2**31))
def test_weighted_backends_equal_scipy(
    nodes: int, density: float, both_ways: bool, seed: int
) -> None:
    graph = some_graph(nodes, int(nodes * density), both_ways, seed)
    landmarks = torch.randint(nodes, (7,))
    weights = torch.rand(len(graph[1]), dtype=torch.float64)
    weights[::5] = 0
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        exact = weights.to(dtype)
        got = landmark_distances(*graph, landmarks, exact, backend="cpu")
        assert got.dtype == dtype
        assert torch.equal(got, landmark_distances(*graph, landmarks, exact, backend="naive"))
        expected = scipy_distances(graph, landmarks, exact)
        assert np.allclose(got.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_distance_runs_along_the_arcs_from_the_landmark(backend: str) -> None:
    graph = directed(4, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    got = landmark_distances(*graph, torch.tensor([0, 3]), backend=backend)
    assert got.tolist() == [[0, -1], [1, -1], [2, -1], [-1, 0]]


def test_landmarks_bound_every_distance() -> None:
    graph = token_graph(300, window=2, semantic=1)
    every = landmark_distances(*graph, torch.arange(300))
    some = every[:, ::20]
    gap = (some[:, None] - some[None]).abs().amax(-1)
    detour = (some[:, None] + some[None]).amin(-1)
    assert torch.equal(every, every.T)
    assert bool((gap <= every).all())
    assert bool((every <= detour).all())
    assert bool((gap < detour).any())


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_any_number_of_landmarks_in_any_order(count: int) -> None:
    graph = random_graph(200, 4)
    landmarks = torch.arange(200).flip(0)[:count]
    every = landmark_distances(*graph, torch.arange(200), backend="naive")
    assert torch.equal(landmark_distances(*graph, landmarks), every[:, landmarks])


def test_a_landmark_may_occur_twice() -> None:
    graph = random_graph(50, 4)
    got = landmark_distances(*graph, torch.tensor([7, 3, 7], dtype=torch.int32))
    assert torch.equal(got[:, 0], got[:, 2])
    assert got[7].tolist() == [0, int(got[7, 1]), 0]


@pytest.mark.parametrize("backend", ["cpu", "naive"])
@pytest.mark.parametrize("weighted", [False, True])
def test_small_and_empty_graphs(backend: str, weighted: bool) -> None:
    none = torch.zeros(0, dtype=torch.int32)
    weights = torch.zeros(0) if weighted else None
    empty = landmark_distances(torch.zeros(1).long(), none, none, weights, backend=backend)
    assert empty.shape == (0, 0)
    one = (torch.zeros(2).long(), none)
    assert landmark_distances(*one, none, weights, backend=backend).shape == (1, 0)
    assert landmark_distances(*one, torch.tensor([0]), weights, backend=backend).tolist() == [[0]]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_path(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        landmarks = torch.arange(0, 20_000, 400)
        got = landmark_distances(*path_graph(20_000), landmarks)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, (torch.arange(20_000)[:, None] - landmarks).abs().int())


def kinds_of_graphs() -> dict[str, Graph]:
    """Frontiers that are wide, narrow, thin, and thin before and after they are wide."""
    tail = torch.arange(1, 2000)
    ball = torch.randint(1000, (2, 8000), generator=torch.Generator().manual_seed(0))
    tails = torch.cat([ball[0], torch.tensor([0]), 1000 + tail - 1])
    heads = torch.cat([ball[1], torch.tensor([1000]), 1000 + tail])
    return {
        "random": random_graph(3000, 16),
        "tokens": token_graph(3000),
        "a ball on a string": undirected(3000, tails, heads),
        "arcs one way": directed(3000, tails, heads),
        "islands": undirected(3000, tails[tails != 1500], heads[tails != 1500]),
    }


@pytest.mark.parametrize("kind", kinds_of_graphs())
@pytest.mark.parametrize("wide", [1, 8, 10**9])
def test_pushed_pulled_and_parted_levels_agree(
    kind: str, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search's own functions, with every frontier wide, some, or none."""
    graph, landmarks = kinds_of_graphs()[kind], torch.arange(0, 3000, 40)
    expected = landmark_distances(*graph, landmarks, torch.ones(len(graph[1])))
    expected = expected.where(expected.isfinite(), -1).int()
    monkeypatch.setattr(cpu, "SMALL", 0)
    monkeypatch.setattr(cpu, "WIDE", wide)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(landmark_distances(*graph, landmarks), expected)
        finally:
            torch.set_num_threads(before)


def test_custom_op_is_registered_soundly() -> None:
    indptr, indices = random_graph(20, 4)
    landmarks = torch.tensor([3, 5])
    for weights in (None, torch.rand(len(indices))):
        torch.library.opcheck(cpu.landmark_distances, (indptr, indices, landmarks, weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": torch.zeros(0).long()}, r"expects indptr \[N \+ 1\]"),
        ({"indptr": torch.tensor([0.0, 1, 2, 4])}, "indptr int64 or int32"),
        ({"indptr": torch.tensor([0, 1, 2, 3])}, "rise from 0 to the number of arcs, 4"),
        ({"indptr": torch.tensor([0, 3, 2, 4])}, "rise from 0"),
        ({"indptr": torch.tensor([1, 1, 2, 4])}, "rise from 0"),
        ({"indices": torch.tensor([1, 0, 2, 1])}, "indices int32"),
        ({"indices": torch.tensor([1, 0, 3, 1], dtype=torch.int32)}, r"within 0 … 2, got 0 … 3"),
        ({"indices": torch.tensor([1, 0, -1, 1], dtype=torch.int32)}, "indices must be within"),
        ({"landmarks": torch.tensor([[0]])}, r"landmarks \[L\]"),
        ({"landmarks": torch.tensor([0.0])}, "int32 or int64"),
        ({"landmarks": torch.tensor([0, 3])}, "landmarks must be within 0 … 2"),
        ({"landmarks": torch.tensor([-1])}, "landmarks must be within"),
        ({"weights": torch.ones(3)}, r"weights \[4\]"),
        ({"weights": torch.ones(4).half()}, "float32 or float64"),
        ({"weights": torch.tensor([1, 1, -1.0, 1])}, "finite and at least 0"),
        ({"weights": torch.tensor([1, 1, torch.nan, 1])}, "finite"),
        ({"weights": torch.tensor([1, 1, torch.inf, 1])}, "finite"),
    ],
)
def test_bad_input_is_a_clear_error(change: dict[str, Tensor], message: str) -> None:
    good = {
        "indptr": torch.tensor([0, 1, 3, 4]),
        "indices": torch.tensor([1, 0, 2, 1], dtype=torch.int32),
        "landmarks": torch.tensor([0, 2]),
        "weights": torch.ones(4),
    }
    landmark_distances(**good)
    with pytest.raises(InputError, match=message):
        landmark_distances(**{**good, **change})


def test_other_devices_are_refused() -> None:
    indptr, indices = path_graph(3)
    with pytest.raises(BackendError, match="landmark_distances cannot run on meta"):
        landmark_distances(indptr, indices.to("meta"), torch.tensor([0]))
