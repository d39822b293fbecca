"""Heads that see the edges of one block, and heads that learn what to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.errors import ConfigError
from state_core.graph import EdgeKind
from state_core.layers.block_heads import GLOBAL, UNSEEN, edge_blocks, head_blocks
from state_core.layers.learned_mask import LearnedMask
from state_core.layers.view import build_view
from tests.invariants.variants import build, text


def test_an_edge_belongs_to_its_dominant_block() -> None:
    model = build("successors")
    with torch.no_grad():
        graph = model(text(2, 40), return_graph=True).graph
    assert graph is not None
    blocks = edge_blocks(graph)
    content = {EdgeKind.SEMANTIC, EdgeKind.SUCCESSOR}
    seen = set()
    for b, i in ((0, 10), (0, 39), (1, 25)):
        row = graph.rows(b, i)
        for e, (j, kind) in enumerate(zip(row.neighbors.tolist(), row.kinds.tolist())):
            edge = graph.explain(b, i, j)
            named = GLOBAL if kind not in content else graph.layout.index(edge.dominant)
            assert blocks[b, i, e] == named
            seen.add(edge.dominant)
    assert len(seen) > 1


def test_heads_take_the_blocks_in_turn() -> None:
    config = SOSMConfig.preset("default").override({"attention.multi_block": True})
    layout = list(config.state.layout)
    names = [layout.index(name) for name in ("I", "R2", "K")]
    assert head_blocks(config).tolist() == [GLOBAL, *names]
    more = config.override({"attention.n_heads": 8, "attention.global_heads": 2})
    assert head_blocks(more).tolist() == [GLOBAL, GLOBAL, *names, *names]
    paired = more.override({"attention.differential": True, "attention.global_heads": 1})
    assert head_blocks(paired).tolist() == [GLOBAL] * 2 + [n for n in names for _ in range(2)]


def test_a_head_is_blind_to_the_values_of_other_blocks_edges() -> None:
    """Removing the edges that a head does not see leaves its output as it is."""
    config = build("as recommended").config.override(
        {"attention.multi_block": True, "attention.n_heads": 4, "layers": ["graph_attention"]}
    )
    torch.manual_seed(0)
    model = SOSM(config).eval()
    mixer, x = model.blocks[0].mixer, torch.randn(2, 40, config.d_model)
    with torch.no_grad():
        mixer.out.weight.copy_(torch.eye(config.d_model))  # one head after the other
        graph = model(text(2, 40), return_graph=True).graph
        assert graph is not None
        view = build_view(config, graph.positions, graph, cached=False)
        whole = mixer(x, view, None)[0].unflatten(-1, (4, -1))
        blocks = edge_blocks(graph)
        width = torch.arange(graph.neighbors.shape[-1])
        real = width < graph.counts[..., None]
        for head, own in enumerate(head_blocks(config).tolist()):
            keep = real & ((blocks == own) | (blocks == GLOBAL) | (own == GLOBAL))
            part = graph.subgraph(keep=keep[real])
            small = build_view(config, part.positions, part, cached=False)
            alone = mixer(x, small, None)[0].unflatten(-1, (4, -1))
            torch.testing.assert_close(alone[:, :, head], whole[:, :, head])
            assert (part.counts.sum() < graph.counts.sum()) == (own != GLOBAL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention.global_heads": 4}, "beside the global"),
        ({"attention.differential": True, "attention.global_heads": 2}, "beside the global"),
        ({"graph.similarity": "full"}, "blockwise"),
    ],
)
def test_what_cannot_be_divided_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SOSMConfig.preset("default").override({"attention.multi_block": True, **values})


def test_a_learned_mask_hides_edges_and_learns_from_those_it_hides() -> None:
    config = build("as recommended").config.override(
        {"attention.learned_mask": True, "layers": ["graph_attention"], "pointer.enabled": False}
    )
    torch.manual_seed(0)
    model, ids = SOSM(config), text(2, 60)
    mixer = model.blocks[0].mixer
    with torch.no_grad():
        mixer.mask.threshold.copy_(torch.tensor([-2.0, 2.0]))
    model(ids, labels=ids).loss.backward()
    assert (mixer.mask.threshold.grad != 0).all()

    model.eval()
    graph = model(ids, return_graph=True).graph
    view = build_view(config, graph.positions, graph, cached=False)
    ignored, soft = mixer.mask(graph)
    semantic = graph.kinds == EdgeKind.SEMANTIC
    assert not ignored[:, 0].any()
    assert torch.equal(ignored[:, 1], semantic)
    assert torch.equal(soft == 0, (~semantic)[:, None].expand_as(soft))
    assert (mixer.edge_bias(view).masked_fill(ignored, UNSEEN)[:, 1][semantic] == UNSEEN).all()
    part = replace(graph, weights=graph.weights.clone())
    assert torch.equal(LearnedMask(2)(part)[0].any(1), semantic & (graph.weights <= -0.5))


def test_the_hard_mask_is_what_is_computed() -> None:
    """With and without gradients the numbers are the same, though only one runs the soft mask."""
    model, ids = build("learned mask"), text(2, 50)
    trained = model(ids).logits
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, trained, rtol=0, atol=1e-5)
