"""Rows are what the design says, against brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from state_core import GraphStream, SOSMConfig, State, build_graph
from state_core.config import GraphConfig
from state_core.graph import EdgeKind, GraphBuilder

LAYOUT = tuple(SOSMConfig.preset("default").state.layout)
FIXED = GraphConfig(window=2, sinks=1, k_base=4, adaptive_k=False, successor=True)


def random_state(length: int, batch: int = 1, seed: int = 0, words: int = 1000) -> State:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(words, 16, 4, generator=generator)
    ids = torch.randint(words, (batch, length), generator=generator)
    return State(table[ids], torch.zeros(batch, length, 32), LAYOUT)


def blockwise(state: State, b: int, weights: dict[str, float]) -> torch.Tensor:
    total = torch.zeros(state.semantic.shape[1], state.semantic.shape[1])
    for name, weight in weights.items():
        unit = F.normalize(state.block(name)[b], dim=-1)
        total += weight * unit @ unit.T
    return total


def best_of(candidates: list[int], similarity: torch.Tensor, k: int) -> list[int]:
    """The most similar ones; equal words are equally similar, and then the most recent wins."""
    return sorted(candidates, key=lambda j: (-round(float(similarity[j]), 5), -j))[:k]


def chosen(graph, b: int, i: int, kind: EdgeKind) -> list[int]:
    row = graph.rows(b, i)
    return row.neighbors[row.kinds == kind].tolist()


def test_semantic_edges_are_the_most_similar_outside_the_window() -> None:
    state = random_state(50, batch=2)
    graph = build_graph(state, FIXED)
    for b in range(2):
        similarity = blockwise(state, b, FIXED.block_weights)
        for i in range(50):
            candidates = list(range(max(0, i - FIXED.window)))
            best = best_of(candidates, similarity[i], 4)
            assert chosen(graph, b, i, EdgeKind.SEMANTIC) == best
            row = graph.rows(b, i)
            expected = similarity[i, row.neighbors.long()]
            torch.testing.assert_close(row.weights, expected, rtol=1e-5, atol=1e-6)


def test_every_kind_is_where_it_should_be_and_each_token_once() -> None:
    graph = build_graph(random_state(60, words=9), FIXED)
    for i in range(60):
        row = graph.rows(0, i)
        assert len(set(row.neighbors.tolist())) == len(row.neighbors)
        assert chosen(graph, 0, i, EdgeKind.SEQUENTIAL) == [j for j in (i, i - 1, i - 2) if j >= 0]
        semantic = chosen(graph, 0, i, EdgeKind.SEMANTIC)
        after = [j + 1 for j in semantic if j + 1 < i - 2 and j + 1 not in semantic]
        assert chosen(graph, 0, i, EdgeKind.SUCCESSOR) == after
        expected_sink = [0] if i > 2 and 0 not in semantic and 0 not in after else []
        assert chosen(graph, 0, i, EdgeKind.SINK) == expected_sink


def test_a_bidirectional_graph_sees_both_sides() -> None:
    state = random_state(40)
    both = FIXED.model_copy(update={"causal": False})
    graph = build_graph(state, both)
    similarity = blockwise(state, 0, FIXED.block_weights)
    for i in range(40):
        candidates = [j for j in range(40) if abs(i - j) > 2]
        best = best_of(candidates, similarity[i], 4)
        assert chosen(graph, 0, i, EdgeKind.SEMANTIC) == best
        assert set(chosen(graph, 0, i, EdgeKind.SEQUENTIAL)) == {
            j for j in range(i - 2, i + 3) if 0 <= j < 40
        }


def test_mutual_bidirectional_edges_go_both_ways() -> None:
    config = FIXED.model_copy(
        update={"causal": False, "mutual": True, "successor": False, "sinks": 0}
    )
    graph = build_graph(random_state(60), config)
    edges = {(int(i), int(j)) for i, j in graph.edge_index.T}
    assert edges == {(j, i) for i, j in edges}
    assert graph.stats().reciprocity == 1.0
    assert graph.stats().kinds["semantic"] > 0


@given(seed=st.integers(0, 1000), words=st.integers(2, 40), k=st.integers(1, 6))
def test_mutual_causal_edges_by_definition(seed: int, words: int, k: int) -> None:
    """i→j stays iff i is among j's K best over the tokens up to i; ties go to the most recent."""
    config = FIXED.model_copy(update={"k_base": k, "mutual": True, "k_min": 1})
    state = random_state(36, seed=seed, words=words)
    mutual = build_graph(state, config)
    lists = build_graph(state, config.model_copy(update={"mutual": False}))
    similarity = blockwise(state, 0, config.block_weights)
    expected = set()
    for i in range(36):
        for j in chosen(lists, 0, i, EdgeKind.SEMANTIC):
            others = [t for t in range(i + 1) if abs(t - j) > config.window]
            if i in best_of(others, similarity[j], k):
                expected.add((i, j))
    kept = {(i, j) for i in range(36) for j in chosen(mutual, 0, i, EdgeKind.SEMANTIC)}
    assert kept == expected


def test_mutual_edges_thin_out_hubs() -> None:
    generator = torch.Generator().manual_seed(0)
    state = random_state(400)
    # Points near one centre: the centre's neighbours become everybody's neighbours.
    centre = torch.randn(16, 4, generator=generator)
    crowd = State(0.5 * state.semantic + centre, state.temporal, LAYOUT)
    config = GraphConfig(adaptive_k=False, k_base=6)
    free = build_graph(crowd, config).stats()
    mutual = build_graph(crowd, config.model_copy(update={"mutual": True})).stats()
    assert mutual.kinds["semantic"] < free.kinds["semantic"]
    assert mutual.in_degree_max < free.in_degree_max


def test_adaptive_k_follows_ambiguity_and_earlier_batches_only() -> None:
    config = GraphConfig(k_base=6, k_min=3, k_max=12, k_alpha=3.0)
    builder = GraphBuilder(config, LAYOUT)
    state = random_state(200, words=30)
    untrained = builder.eval()(state)
    rows = [len(chosen(untrained, 0, i, EdgeKind.SEMANTIC)) for i in range(40, 200)]
    assert set(rows) == {6}, "without statistics every token is of average ambiguity"
    builder.train()(state)
    trained = builder.eval()(state)
    rows = [len(chosen(trained, 0, i, EdgeKind.SEMANTIC)) for i in range(40, 200)]
    assert min(rows) >= 3
    assert max(rows) <= 12
    assert len(set(rows)) > 1
    again = builder.eval()(state)
    assert torch.equal(trained.neighbors, again.neighbors)


def test_learned_weights_stay_positive_and_keep_their_sum() -> None:
    config = GraphConfig(learn_weights=True)
    builder = GraphBuilder(config, LAYOUT)
    optimizer = torch.optim.SGD(builder.parameters(), lr=0.01)
    before = builder.similarity.weights()
    graph = builder(random_state(80))
    graph.weights.square().sum().backward()
    optimizer.step()
    after = builder.similarity.weights()
    assert not torch.allclose(before, after)
    assert bool((after > 0).all())
    torch.testing.assert_close(after.sum(), before.sum())


@given(seed=st.integers(0, 1000), cut=st.integers(1, 49))
def test_a_stream_gives_the_rows_of_the_whole(seed: int, cut: int) -> None:
    state = random_state(50, seed=seed, words=12)
    config = FIXED.model_copy(update={"mutual": True})
    builder = GraphBuilder(config, LAYOUT).eval()
    whole, stream = builder(state), GraphStream(1)
    first = builder(State(state.semantic[:, :cut], state.temporal[:, :cut], LAYOUT), stream)
    second = builder(State(state.semantic[:, cut:], state.temporal[:, cut:], LAYOUT), stream)
    assert torch.equal(torch.cat([first.neighbors, second.neighbors], 1), whole.neighbors)
    assert torch.equal(torch.cat([first.weights, second.weights], 1), whole.weights)
    edge = second.rows(0, 49).neighbors[0]
    assert second.explain(0, 49, int(edge)) == whole.explain(0, 49, int(edge))


def test_the_projection_is_the_same_in_every_process() -> None:
    config = GraphConfig(similarity="projection")
    torch.manual_seed(1)
    first = GraphBuilder(config, LAYOUT).similarity.basis
    torch.manual_seed(2)
    second = GraphBuilder(config, LAYOUT).similarity.basis
    assert torch.equal(first, second)
    torch.testing.assert_close(first.T @ first, torch.eye(16, dtype=torch.float64))


@pytest.mark.parametrize("length", [1, 2, 3, 63, 65])
def test_awkward_lengths(length: int) -> None:
    graph = build_graph(random_state(length, batch=3), GraphConfig())
    assert graph.counts.min() >= 1
    assert graph.indptr[-1] == graph.edge_index.shape[1] == graph.counts.sum()
