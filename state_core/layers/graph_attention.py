"""Attention over the edges of the token graph.

The bias of an edge is a_h·sim + kind bias, per head, plus the log of its TEMPORAL gate if there is
one, so that similarity and gate train through attention; ALiBi and Graph-ALiBi take slope·distance
from it, multi-block heads and the learned mask hide edges.
B batch, T new tokens, S tokens known, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops
from state_core.config import SOSMConfig
from state_core.graph.neighbors import kind_count
from state_core.graph.token_graph import TokenGraph
from state_core.layers.attention_heads import AttentionHeads
from state_core.layers.block_heads import UNSEEN, head_blocks, unseen
from state_core.layers.kv_cache import KVCache
from state_core.layers.learned_mask import LearnedMask, straight_through
from state_core.layers.memory_heads import MemoryHeads
from state_core.layers.point import Point
from state_core.layers.positions import split_heads
from state_core.layers.straight_through import teach_refused
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
        self.kind_bias = nn.Parameter(torch.zeros(kind_count(config.graph), self.n_heads))
        self.heads = AttentionHeads(config, index)
        self.mask = LearnedMask(self.n_heads) if config.attention.learned_mask else None
        self.memory: MemoryHeads | None = None
        if index == memory_layer(config):
            self.memory = MemoryHeads(self.n_heads)
        self.q, self.k, self.v = (Point("[B,T,H,D/H]") for _ in range(3))
        self.pattern = Point("[B,H,T,E]")
        self.z = Point("[B,T,H,D/H]")
        self.blocks: Tensor | None
        blocks = head_blocks(config) if config.attention.multi_block else None
        self.register_buffer("blocks", blocks, persistent=False)

    def forward(
        self, x: Tensor, view: LayerView, state: KVCache | None
    ) -> tuple[Tensor, KVCache | None]:
        """[B,T,D] → [B,T,D], and the keys and values so far when decoding."""
        assert view.graph is not None
        graph = view.graph
        projected = self.qkv(x)
        q, k, v = split_heads(projected, self.n_heads, view.rotation)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if view.cached:
            state = state or KVCache()
            k, v = state.write(k, v, view.positions)
        bias = self.edge_bias(view)
        if graph.log_gates is not None:
            bias = bias + graph.log_gates[:, None]
        open_bias, soft = bias, None
        if self.mask is not None:
            ignored, soft = self.mask(graph)
            bias = bias.masked_fill(ignored, UNSEEN)

        shares = self._edited_pattern(q, k, bias, graph)

        def attend(q: Tensor, k: Tensor, v: Tensor, heads: slice) -> Tensor:
            if shares is not None:
                return weighted_sum(shares[:, heads], v, graph)
            y, lse = ops.graph_attention(
                q, k, v, graph.neighbors, graph.counts, bias=bias[:, heads], return_lse=True
            )
            if not torch.is_grad_enabled():
                return y
            if view.refused is not None:
                assert view.refused.graph is not None
                refused_bias = self.edge_bias(view.refused)[:, heads]
                y = teach_refused(y, lse, q, k, v, view.refused.graph, refused_bias)
            if soft is None:
                return y
            q, k, v = q.detach(), k.detach(), v.detach()
            softly = open_bias[:, heads].detach() + soft[:, heads].to(bias.dtype)
            return straight_through(
                y, ops.graph_attention(q, k, v, graph.neighbors, graph.counts, bias=softly)
            )

        y = self.heads(attend, q, k, v)
        if self.memory is not None and view.recalled is not None:
            # What is remembered lies at no distance: its queries and keys are not rotated.
            unturned, _, _ = split_heads(projected, self.n_heads, None)
            y = self.memory(y, unturned, view.recalled)
        return self.out(self.z(y.unflatten(-1, (self.n_heads, -1))).flatten(2)), state

    def _edited_pattern(
        self, q: Tensor, k: Tensor, bias: Tensor, graph: TokenGraph
    ) -> Tensor | None:
        """The share of each edge in each head, [B,H,T,E], if someone replaces it. The kernel never
        forms it, so who only reads it changes nothing."""
        if not self.pattern.watched:
            return None
        shares = edge_shares(q, k, bias, graph)
        seen: Tensor = self.pattern(shares)
        return None if seen is shares else seen

    def to_remember(self, x: Tensor) -> Tensor:
        """Keys, without positions, and values of [B,T,D]: [B,T,2,H,D/H]."""
        _, k, v = split_heads(self.qkv(x), self.n_heads, None)
        return torch.stack([k, v], dim=2)

    def edge_bias(self, view: LayerView) -> Tensor:
        """What the graph says of each edge, but for its gate: [B,H,T,E]."""
        assert view.graph is not None
        graph = view.graph
        kinds = kind_indicator(graph, len(self.kind_bias))
        bias = graph.weights[..., None] * self.similarity_scale + kinds @ self.kind_bias
        bias = bias.permute(0, 3, 1, 2)
        far = self.heads.distance_bias(self._distance(view))
        bias = bias if far is None else bias + far.to(bias.dtype)
        if self.blocks is None:
            return bias
        assert view.edge_blocks is not None
        return bias.masked_fill(unseen(self.blocks, view.edge_blocks), UNSEEN)

    def _distance(self, view: LayerView) -> Tensor:
        """How far the ends of each edge are apart, [B,T,E], in tokens or in the graph."""
        assert view.graph is not None
        if self.positions == "graph_alibi":
            assert view.edge_gaps is not None
            return view.edge_gaps
        return (view.positions[..., None] - view.graph.neighbors).abs()


def edge_shares(q: Tensor, k: Tensor, bias: Tensor, graph: TokenGraph) -> Tensor:
    """The softmax [B,H,T,E] over each row's edges; 0 for padding. q [B,T,H,D], k [B,S,H,D]."""
    q = q * q.shape[-1] ** -0.5
    heads = range(q.shape[2])
    edges = graph.neighbors, graph.counts
    scores = [ops.edge_scores(q[:, :, h], *edges, keys=k[:, :, h]) for h in heads]
    real = (graph.neighbors >= 0)[:, None]
    joined = torch.stack(scores, dim=1) + bias
    return joined.masked_fill(~real, torch.finfo(joined.dtype).min).softmax(-1) * real


def weighted_sum(shares: Tensor, v: Tensor, graph: TokenGraph) -> Tensor:
    """Σ_e share·value: shares [B,H,T,E], v [B,H,S,M] → [B,H,T,M]."""
    batch = torch.arange(len(v), device=v.device)[:, None, None]
    at = graph.neighbors.clamp(min=0).long()
    # A head at a time: the values of all edges of all heads would be E times as many as tokens.
    heads = zip(shares.unbind(1), v.unbind(1), strict=True)
    return torch.stack([torch.einsum("bte,btem->btm", s, u[batch, at]) for s, u in heads], dim=1)


def memory_layer(config: SOSMConfig) -> int | None:
    """The layer that reads the memory: the uppermost graph attention."""
    if not config.memory.enabled:
        return None
    return max(i for i, name in enumerate(config.layers) if name == "graph_attention")


def kind_indicator(graph: TokenGraph, count: int) -> Tensor:
    """1 where an edge is of a kind, [B,T,E,count]: a product with it has a cheap gradient, where
    indexing by kind would scatter."""
    kinds = torch.arange(count, device=graph.kinds.device, dtype=graph.kinds.dtype)
    return (graph.kinds[..., None] == kinds).to(graph.weights.dtype)
