"""Encodings of a token's place in the graph start silent, and say what they claim."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.graph import EdgeKind, TokenGraph
from state_core.graph.structure import WALK_STEPS
from state_core.layers.graph_encoding import build_encoding
from tests.invariants.variants import SMALL, build, text


def read(name: str, length: int = 50) -> TokenGraph:
    with torch.no_grad():
        graph = build(name)(text(2, length), return_graph=True).graph
    assert graph is not None
    return graph


@pytest.mark.parametrize("encoding", ["degree", "random_walk"])
def test_a_fresh_encoding_changes_nothing_and_learns(encoding: str) -> None:
    plain = SOSMConfig.preset("default").override({**SMALL, "layers": ["graph_attention"]})
    torch.manual_seed(0)
    model = SOSM(plain).eval()
    encoded = SOSM(plain.override({"graph.encoding": encoding})).eval()
    encoded.load_state_dict(model.state_dict(), strict=False)
    ids = text(2, 40)
    assert torch.equal(encoded(ids).logits, model(ids).logits)
    encoded(ids, labels=ids).loss.backward()
    grads = [p.grad for p in encoded.encoding.parameters()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)


def test_degree_is_the_rows_length_and_how_often_its_targets_were_read() -> None:
    graph = read("degree encoding")
    for b in range(2):
        times = [0] * 50
        for i in range(50):
            row = graph.rows(b, i)
            semantic = row.neighbors[row.kinds == EdgeKind.SEMANTIC].tolist()
            most = max((times[j] for j in semantic), default=0)
            assert graph.degree[b, i].tolist() == [len(row.neighbors), most]
            for j in semantic:
                times[j] += 1
    assert graph.degree[..., 1].max() > 3


def test_walks_are_probabilities() -> None:
    walk = read("random walk encoding").walk
    assert walk.shape == (2, 50, WALK_STEPS)
    assert bool(((walk >= 0) & (walk <= 1)).all())
    assert bool((walk[..., 0] == 0).all()), "no edge leads from a token to itself"
    assert bool((walk[:, 2:, 1] > 0).all())


def test_counts_beyond_the_bins_share_the_last_one() -> None:
    config = SOSMConfig.preset("default").override({"graph.encoding": "degree"})
    encoding = build_encoding(config.graph, 4)
    torch.nn.init.normal_(encoding.times_read)
    graph = read("degree encoding", 5)
    many = torch.tensor([[[3, 0], [3, 1], [3, 2], [3, 3], [3, 2**20]]]).int()
    shown = encoding(type(graph)(**{**vars(graph), "degree": many}))[0]
    assert torch.equal(shown[2], shown[3])
    assert not torch.equal(shown[1], shown[2])
    assert torch.equal(shown[4], encoding.times_read[-1])
