"""I5: with all causal edges present, graph attention is dense causal attention."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, build_graph
from tests.invariants.variants import build, text


def _dense_copy(sparse: SOSM) -> SOSM:
    config = sparse.config.override({"layers": ["mamba", "attention"]})
    dense = SOSM(config).eval()
    missing, unexpected = dense.load_state_dict(sparse.state_dict(), strict=False)
    assert not missing
    assert all("similarity_scale" in k or "kind_bias" in k for k in unexpected)
    return dense


@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_window_over_everything_gives_dense_attention(length: int) -> None:
    sparse = build("as recommended")
    config = sparse.config.override(
        {"graph.window": 64, "graph.semantic": False, "pointer.enabled": False}
    )
    wide = SOSM(config).eval()
    wide.load_state_dict(sparse.state_dict(), strict=False)
    with torch.no_grad():
        for block in wide.blocks:
            if hasattr(block.mixer, "kind_bias"):
                block.mixer.kind_bias.zero_()
                block.mixer.similarity_scale.zero_()
        ids = text(2, length)
        dense = _dense_copy(wide)
        torch.testing.assert_close(wide(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_window_graph_has_every_causal_edge() -> None:
    model = build("as recommended")
    with torch.no_grad():
        state = model(text(1, 20), return_state=True).state
    assert state is not None
    wide = model.config.graph.model_copy(update={"window": 64, "semantic": False, "sinks": 0})
    graph = build_graph(state, wide)
    edges = {(int(i), int(j)) for i, j in graph.edge_index.T}
    assert edges == {(i, j) for i in range(20) for j in range(i + 1)}
