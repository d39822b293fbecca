"""GraphBuilder: the state of new tokens → their rows of the graph.

There is one way to build a row, whether the whole text is given at once, in chunks or token by
token: `rows` takes the new tokens and what a `GraphStream` holds of the earlier ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops
from state_core.config import GraphConfig
from state_core.errors import InputError
from state_core.graph.adaptive_k import AdaptiveK
from state_core.graph.graph_stream import GraphStream
from state_core.graph.lsh import LSH
from state_core.graph.mutual import keep_mutual
from state_core.graph.neighbors import assemble_rows
from state_core.graph.similarity import build_similarity
from state_core.graph.token_graph import TokenGraph
from state_core.state import State, check_finite


class GraphBuilder(nn.Module):
    """Builds the rows of a token graph; holds what is learned or counted while training."""

    def __init__(self, config: GraphConfig, layout: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        self.similarity = build_similarity(config, layout)
        self.adaptive_k = AdaptiveK(config) if config.semantic and config.adaptive_k else None
        self.lsh: LSH | None = None
        if config.semantic and config.source == "lsh":
            self.lsh = LSH(config, layout, self.similarity.width)

    def forward(self, state: State, stream: GraphStream | None = None) -> TokenGraph:
        """The rows of the tokens of `state`, which follow those that `stream` holds, if any.

        The graph's weights carry gradients to the state; which edges exist does not.
        """
        _check(state, self.layout)
        u = self.similarity.features(state.semantic)
        positions, keys, semantic = _extend(stream, u, state.semantic)
        chosen = self._semantic_edges(state, u, keys, positions, stream)
        neighbors, counts, kinds = assemble_rows(chosen, positions, self.config, keys.shape[1])
        return TokenGraph(
            neighbors=neighbors,
            counts=counts,
            kinds=kinds,
            weights=ops.edge_scores(u, neighbors, counts, keys=keys),
            positions=positions,
            semantic=semantic.detach(),
            layout=self.layout,
            similarity=self.similarity,
            causal=self.config.causal,
        )

    @torch.no_grad()
    def _semantic_edges(
        self, state: State, u: Tensor, keys: Tensor, positions: Tensor, stream: GraphStream | None
    ) -> Tensor:
        """The most similar tokens of each row, best first: [B,T,K] int32, −1 pads."""
        cfg = self.config
        if not cfg.semantic:
            return positions.new_full((*positions.shape, 0), -1, dtype=torch.int32)
        u, keys = u.detach(), keys.detach()
        if self.lsh is None:
            indices, scores = ops.causal_topk(
                u, cfg.max_k, cfg.window + 1, keys=keys, positions=positions, causal=cfg.causal
            )
        else:
            codes = self.lsh.codes(u, state.semantic)
            every = codes if stream is None else stream.codes.write(codes, positions)
            indices, scores = self.lsh.topk(u, keys, codes, every, positions)
        k: int | Tensor = cfg.max_k
        if self.adaptive_k is not None:
            wanted = self.adaptive_k(state.semantic.detach(), scores)
            rank = torch.arange(cfg.max_k, device=scores.device)
            indices = torch.where(rank < wanted[..., None], indices, -1)
            k = wanted
        if cfg.mutual:
            indices = keep_mutual(indices, scores, k, u, keys, positions, cfg, stream)
        return indices


def build_graph(state: State, config: GraphConfig) -> TokenGraph:
    """The graph of a state, with the configuration's own (untrained) weights and statistics."""
    with torch.no_grad():
        return GraphBuilder(config, state.layout).eval()(state)


def _extend(
    stream: GraphStream | None, u: Tensor, semantic: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the new tokens [B,T], and features and states of all tokens known."""
    if stream is not None:
        return stream.extend(u, semantic)
    return torch.arange(u.shape[1], device=u.device).expand(u.shape[:2]), u, semantic


def _check(state: State, layout: tuple[str, ...]) -> None:
    if state.layout != layout:
        raise InputError(f"the state has the blocks {state.layout}, the graph expects {layout}")
    if state.semantic.shape[0] == 0 or state.semantic.shape[1] == 0:
        raise InputError(
            f"cannot build a graph of no tokens: state of shape {list(state.semantic.shape)}"
        )
    check_finite(state.semantic, "the semantic state")
