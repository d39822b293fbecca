"""Attention over the edges of the token graph.

The bias of an edge is a_h·sim + kind bias, per head, so that similarity trains through attention;
ALiBi and Graph-ALiBi take slope·distance from it.
B batch, T new tokens, S tokens known, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops
from state_core.config import SOSMConfig
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.attention_heads import AttentionHeads
from state_core.layers.kv_cache import KVCache
from state_core.layers.positions import split_heads
from state_core.layers.view import LayerView


class GraphAttention(nn.Module):
    """Each token attends to its row of the graph and to nothing else."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.n_heads = config.attention.n_heads
        self.positions = config.attention.positions
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.similarity_scale = nn.Parameter(torch.ones(self.n_heads))
        self.kind_bias = nn.Parameter(torch.zeros(len(EdgeKind), self.n_heads))
        self.heads = AttentionHeads(config, index)

    def forward(
        self, x: Tensor, view: LayerView, state: KVCache | None
    ) -> tuple[Tensor, KVCache | None]:
        """[B,T,D] → [B,T,D], and the keys and values so far when decoding."""
        assert view.graph is not None
        graph = view.graph
        q, k, v = split_heads(self.qkv(x), self.n_heads, view.rotation)
        if view.cached:
            state = state or KVCache()
            k, v = state.write(k, v, view.positions)

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
            return ops.graph_attention(q, k, v, graph.neighbors, graph.counts, bias=bias)

        return self.out(self.heads(attend, q, k, v, self.edge_bias(view))), state

    def edge_bias(self, view: LayerView) -> Tensor:
        """What the graph says of each edge, [B,H,T,E]."""
        assert view.graph is not None
        graph = view.graph
        bias = (
            graph.weights[..., None] * self.similarity_scale
            + kind_indicator(graph) @ self.kind_bias
        )
        bias = bias.permute(0, 3, 1, 2)
        far = self.heads.distance_bias(self._distance(view))
        return bias if far is None else bias + far.to(bias.dtype)

    def _distance(self, view: LayerView) -> Tensor:
        """How far the ends of each edge are apart, [B,T,E], in tokens or in the graph."""
        assert view.graph is not None
        if self.positions == "graph_alibi":
            assert view.edge_gaps is not None
            return view.edge_gaps
        return (view.positions[..., None] - view.graph.neighbors).abs()


def kind_indicator(graph: TokenGraph) -> Tensor:
    """1 where an edge is of a kind, [B,T,E,kinds]: a product with it has a cheap gradient, where
    indexing by kind would scatter."""
    kinds = torch.arange(len(EdgeKind), device=graph.kinds.device, dtype=graph.kinds.dtype)
    return (graph.kinds[..., None] == kinds).to(graph.weights.dtype)
