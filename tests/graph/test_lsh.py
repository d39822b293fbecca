"""Buckets of a locality-sensitive hash: causal, bounded, and as good as they are said to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from state_core import SOSMConfig, State, build_graph, ops
from state_core.config import GraphConfig
from state_core.errors import ConfigError
from state_core.graph import EdgeKind, GraphBuilder
from state_core.graph.lsh import LSH, members

LAYOUT = tuple(SOSMConfig.preset("default").state.layout)


def a_state(length: int, batch: int = 2, seed: int = 0) -> State:
    """States in clusters, as of words that recur."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(12, 16, 4, generator=generator)
    ids = torch.randint(12, (batch, length), generator=generator)
    noise = torch.randn(batch, length, 16, 4, generator=generator)
    return State(words[ids] + 0.2 * noise, torch.zeros(batch, length, 32), LAYOUT)


def by_hand(codes: Tensor, b: int, t: int, last: int, size: int) -> list[int]:
    found: set[int] = set()
    for table in range(codes.shape[2]):
        same = [j for j in range(last + 1) if codes[b, j, table] == codes[b, t, table]]
        found |= set(same[-size:])
    return sorted(found, reverse=True)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_members_are_the_most_recent_of_each_bucket(size: int) -> None:
    codes = torch.randint(4, (2, 40, 3))
    positions = torch.arange(40).expand(2, 40)
    found = members(codes, codes, positions - 3, size)
    assert found.shape == (2, 40, 3 * size)
    for b in range(2):
        for t in range(40):
            row = found[b, t]
            assert row[row >= 0].tolist() == by_hand(codes, b, t, t - 3, size)
            assert (row[(row >= 0).sum() :] == -1).all()


def test_one_bucket_that_holds_everything_gives_the_exact_top_k() -> None:
    config = GraphConfig(source="lsh", lsh_tables=1, lsh_bucket=64, window=2)
    builder = GraphBuilder(config, LAYOUT)
    builder.lsh.planes.zero_()
    state = a_state(60)
    u = builder.similarity.features(state.semantic)
    positions = torch.arange(60).expand(2, 60)
    codes = builder.lsh.codes(u, state.semantic)
    indices, scores = builder.lsh.topk(u, u, codes, codes, positions)
    exact, best = ops.causal_topk(u, config.max_k, 3)
    assert torch.equal(indices, exact)
    assert torch.equal(scores, best)


def test_similar_tokens_are_found() -> None:
    """Four tables of six planes find most of the similarity that the exact edges have."""
    state = a_state(400)
    shares = []
    for source in ("lsh", "topk"):
        graph = build_graph(state, GraphConfig(source=source, adaptive_k=False))
        shares.append(float(graph.weight[graph.kind == EdgeKind.SEMANTIC].double().sum()))
    assert 0.9 < shares[0] / shares[1] <= 1 + 1e-9


def test_more_tables_find_more() -> None:
    state, found = a_state(300), []
    for tables in (1, 4, 16):
        config = GraphConfig(source="lsh", lsh_tables=tables, adaptive_k=False)
        found.append(float(build_graph(state, config).weight.double().sum()))
    assert found == sorted(found)


def test_structure_has_a_say_in_the_hash() -> None:
    config = GraphConfig(source="lsh", lsh_structure=100.0)
    lsh, state = LSH(config, LAYOUT, 12), a_state(50)
    u = GraphBuilder(config, LAYOUT).similarity.features(state.semantic)
    other = state.semantic.clone()
    other[:, :, LAYOUT.index("P")] *= -1
    assert not torch.equal(lsh.codes(u, other), lsh.codes(u, state.semantic))
    silent = LSH(config.model_copy(update={"lsh_structure": 0.0}), LAYOUT, 12)
    assert torch.equal(silent.codes(u, other), silent.codes(u, state.semantic))


def test_the_planes_do_not_hang_on_the_global_seed() -> None:
    config = GraphConfig(source="lsh")
    planes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        planes.append(LSH(config, LAYOUT, 12).planes)
    assert torch.equal(*planes)


@pytest.mark.parametrize("values", [{"graph.mutual": True}, {"graph.causal": False}])
def test_what_buckets_cannot_do_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="topk"):
        SOSMConfig.preset("default").override({"graph.source": "lsh", **values})
