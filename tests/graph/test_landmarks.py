"""Frozen coordinates on a growing graph: what is promised of them, and what is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core import ops
from state_core.config import GraphConfig
from state_core.graph import GraphBuilder, TokenGraph
from state_core.graph.landmarks import choose_landmarks
from state_core.graph.neighbors import EdgeKind
from state_core.graph.prefix import Arcs
from tests.graph.test_graph_builder import LAYOUT, random_state

CONFIG = GraphConfig(window=2, k_base=2, k_min=1, adaptive_k=False, landmarks=12, chunk=12)
LENGTH = 90


def structural(graph: TokenGraph) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows without loops and sinks: neighbors [S,E], counts [S]."""
    part = graph.subgraph(kinds=[EdgeKind.SEQUENTIAL, EdgeKind.SEMANTIC])
    _, targets = part.edge_index
    keep = part.positions[0].repeat_interleave(part.counts[0].long()) != targets
    part = part.subgraph(keep=keep)
    return part.neighbors[0], part.counts[0]


def hops(neighbors: torch.Tensor, counts: torch.Tensor, border: int) -> torch.Tensor:
    """All distances [N,N] of the undirected graph of the first N tokens."""
    return ops.landmark_distances(*Arcs(neighbors, counts).before(border), torch.arange(border))


def along_arcs(neighbors: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Hops [from,to] along arcs from the reader to what is read; −1 if there is no way."""
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).long()
    ends = torch.cat([row[:n] for row, n in zip(neighbors, counts.tolist(), strict=True)])
    return ops.landmark_distances(indptr, ends.int(), torch.arange(len(counts))).T


@given(seed=st.integers(0, 1000), words=st.integers(4, 60))
def test_bounds_of_frozen_coordinates(seed: int, words: int) -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(LENGTH, seed=seed, words=words))
    neighbors, counts = structural(graph)
    c = graph.coordinates[0].long()
    both = (c[:, None] >= 0) & (c[None] >= 0)
    assert bool(both.any())
    far = torch.where(both, c[:, None] + c[None], 10**6).amin(-1)
    lead = torch.where(both, c[:, None] - c[None], -(10**6)).amax(-1)
    arcs = along_arcs(neighbors, counts)
    assert bool((lead <= arcs)[arcs >= 0].all()), "along arcs no coordinate falls faster than hops"
    for border in (40, 65, LENGTH):
        distance = hops(neighbors, counts, border)
        assert bool((distance <= far[:border, :border]).all()), "a way by a landmark is a way"


@given(seed=st.integers(0, 1000))
def test_bounds_of_a_graph_at_rest(seed: int) -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(60, seed=seed, words=20))
    prefix = Arcs(*structural(graph)).before(60)
    d = ops.landmark_distances(*prefix, torch.arange(60))
    c = ops.landmark_distances(*prefix, choose_landmarks(*prefix, 6)).long()
    assert bool((c >= 0).all()), "the window connects every token"
    assert bool(((c[:, None] - c[None]).abs().amax(-1) <= d).all())
    assert bool((d <= (c[:, None] + c[None]).amin(-1)).all())


def test_frozen_coordinates_may_differ_by_more_than_the_distance() -> None:
    """Why the two-sided bound is not promised: token 4 knows a short way that token 3 does not."""
    neighbors = torch.tensor([[[0, 0], [0, 0], [1, 0], [2, 0], [3, 0]]]).int()
    counts = torch.tensor([[0, 1, 1, 1, 2]]).int()
    table = torch.full((1, 5, 1), -1, dtype=torch.int32)
    table[0, 0] = 0
    born = torch.ones(1, 1, dtype=torch.int64)
    ops.landmark_coordinates(neighbors[:, 1:], counts[:, 1:], torch.arange(1, 5)[None], born, table)
    assert table[0, :, 0].tolist() == [0, 1, 2, 3, 1]
    assert hops(neighbors[0], counts[0], 5)[3, 4] == 1


def test_coordinates_by_definition() -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(LENGTH, words=20))
    neighbors, counts = structural(graph)
    c = graph.coordinates[0]
    assert c.shape == (LENGTH, 12)
    first = [int((column >= 0).nonzero()[0]) if (column >= 0).any() else None for column in c.T]
    assert bool((c[:12] == -1).all()), "no landmark before the first border"
    assert all(start is None or start >= 12 for start in first)
    # Within the tokens that know a landmark, one more than the nearest that they look at.
    for i in range(13, LENGTH):
        near = neighbors[i, : counts[i]].long()
        for column in range(12):
            known = c[near, column][c[near, column] >= 0]
            if len(known) and c[i, column] >= 0:
                assert c[i, column] <= known.min() + 1


def test_landmarks_are_the_tokens_that_their_readers_are_one_hop_from() -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(LENGTH, words=20))
    neighbors, counts = structural(graph)
    c, landmarks = graph.coordinates[0], graph.landmarks[0].tolist()
    assert [token >= 0 for token in landmarks] == (c >= 0).any(0).tolist()
    for column, token in enumerate(landmarks):
        for i in (c[:, column] >= 0).nonzero()[:, 0].tolist() if token >= 0 else []:
            reads = token in neighbors[i, : counts[i]].tolist()
            assert (c[i, column] == 1) == reads


def test_landmarks_have_high_degree_and_stand_apart() -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(60, words=20))
    indptr, indices = Arcs(*structural(graph)).before(60)
    degree = indptr.diff()
    chosen = choose_landmarks(indptr, indices, 5)
    assert degree[chosen[0]] == degree.max()
    beside = {(u, int(v)) for u in range(60) for v in indices[indptr[u] : indptr[u + 1]]}
    assert not any((int(a), int(b)) in beside for a in chosen for b in chosen)
    more = choose_landmarks(indptr, indices, 5, taken=chosen)
    assert not set(more.tolist()) & set(chosen.tolist())
    assert not any((int(a), int(b)) in beside for a in chosen for b in more)


@pytest.mark.parametrize("length", [1, 11, 12, 13])
def test_awkward_lengths(length: int) -> None:
    graph = GraphBuilder(CONFIG, LAYOUT).eval()(random_state(length, batch=2))
    assert graph.coordinates.shape == (2, length, 12)
    assert graph.degree.shape == (2, length, 2)
    known = graph.coordinates >= 0
    assert bool(known[:, 12:].any()) == (length > 12)


def test_a_bidirectional_graph_knows_all_landmarks_everywhere() -> None:
    config = CONFIG.model_copy(update={"causal": False})
    graph = GraphBuilder(config, LAYOUT).eval()(random_state(50, batch=2, words=20))
    assert graph.coordinates.shape == (2, 50, 12)
    assert bool((graph.coordinates[..., 0] >= 0).all())
    assert int((graph.coordinates == 0).sum()) >= 2
