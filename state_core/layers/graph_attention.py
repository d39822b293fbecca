"""Attention over the edges of the token graph.

The bias of an edge is a_h·sim + kind bias, per head, so that similarity trains through attention.
B batch, T new tokens, S tokens known, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops
from state_core.config import SOSMConfig
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.kv_cache import KVCache
from state_core.layers.positions import split_heads
from state_core.layers.view import LayerView


class GraphAttention(nn.Module):
    """Each token attends to its row of the graph and to nothing else."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.n_heads = config.attention.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.similarity_scale = nn.Parameter(torch.ones(self.n_heads))
        self.kind_bias = nn.Parameter(torch.zeros(len(EdgeKind), self.n_heads))

    def forward(
        self, x: Tensor, view: LayerView, state: KVCache | None
    ) -> tuple[Tensor, KVCache | None]:
        """[B,T,D] → [B,T,D], and the keys and values so far when decoding."""
        assert view.graph is not None
        q, k, v = split_heads(self.qkv(x), self.n_heads, view.rotation)
        if view.cached:
            state = state or KVCache()
            k, v = state.write(k, v, view.positions)
        graph = view.graph
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        bias = self.edge_bias(graph)
        y = ops.graph_attention(q, k, v, graph.neighbors, graph.counts, bias=bias)
        return self.out(y.transpose(1, 2).flatten(2)), state

    def edge_bias(self, graph: TokenGraph) -> Tensor:
        """What the graph says of each edge, [B,H,T,E]."""
        bias = (
            graph.weights[..., None] * self.similarity_scale
            + kind_indicator(graph) @ self.kind_bias
        )
        return bias.permute(0, 3, 1, 2)


def kind_indicator(graph: TokenGraph) -> Tensor:
    """1 where an edge is of a kind, [B,T,E,kinds]: a product with it has a cheap gradient, where
    indexing by kind would scatter."""
    kinds = torch.arange(len(EdgeKind), device=graph.kinds.device, dtype=graph.kinds.dtype)
    return (graph.kinds[..., None] == kinds).to(graph.weights.dtype)
