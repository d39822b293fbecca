"""GraphBuilder: the state of new tokens → their rows of the graph.

There is one way to build a row, whether the whole text is given at once, in chunks or token by
token: `rows` takes the new tokens and what a `GraphStream` holds of the earlier ones.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from state_core import ops
from state_core.config import GraphConfig
from state_core.errors import ConfigError, InputError
from state_core.graph.adaptive_k import AdaptiveK
from state_core.graph.graph_stream import GraphStream, Known
from state_core.graph.lsh import LSH
from state_core.graph.mutual import keep_mutual
from state_core.graph.neighbors import EdgeKind, assemble_rows, compact, own_edges
from state_core.graph.prefix import Prefix
from state_core.graph.rules import apply_rule
from state_core.graph.similarity import build_similarity
from state_core.graph.structure import read_structure
from state_core.graph.temporal_gate import TemporalGate
from state_core.graph.token_graph import TokenGraph
from state_core.state import State, check_finite


class GraphBuilder(nn.Module):
    """Builds the rows of a token graph; holds what is learned or counted while training."""

    def __init__(
        self, config: GraphConfig, layout: tuple[str, ...], temporal_dim: int | None = None
    ) -> None:
        """temporal_dim: width of the temporal state, which a TEMPORAL gate reads."""
        super().__init__()
        self.config = config
        self.layout = layout
        self.similarity = build_similarity(config, layout)
        self.adaptive_k = AdaptiveK(config) if config.semantic and config.adaptive_k else None
        self.gate: TemporalGate | None = None
        if config.temporal_gate:
            if temporal_dim is None:
                raise ConfigError("graph.temporal_gate needs the width of the temporal state")
            self.gate = TemporalGate(config, temporal_dim)
        self.lsh: LSH | None = None
        if config.semantic and config.source == "lsh":
            self.lsh = LSH(config, layout, self.similarity.width)

    def forward(self, state: State, stream: GraphStream | None = None) -> TokenGraph:
        """The rows of the tokens of `state`, which follow those that `stream` holds, if any.

        The graph's weights and gates carry gradients to the state; which edges exist does not.
        """
        _check(state, self.layout)
        if self.gate is not None:
            check_finite(state.temporal, "the temporal state")
        u = self.similarity.features(state.semantic)
        known = _whole_text(u, state) if stream is None else stream.extend(u, state)
        chosen, scores = self._semantic_edges(state, u, known, stream)
        queries = None if self.gate is None else self.gate.queries(state.temporal)
        refused = None
        if self.gate is not None and queries is not None:
            keep = self.gate.accept(queries.detach(), chosen, scores, known.temporal.detach())
            turned_down = [(torch.where(keep, -1, chosen), EdgeKind.SEMANTIC)]
            chosen = torch.where(keep, chosen, -1)
            refused = self._graph(compact(turned_down), u, known, queries)

        cfg, length = self.config, known.features.shape[1]
        ruled = apply_rule(known, cfg) if cfg.rule != "none" else None
        parts = own_edges(chosen, ruled, known.positions, cfg, length)
        structure = read_structure(parts, known.positions, cfg, known.prefix)
        rows = assemble_rows(parts, structure.shortcuts, known.positions, cfg, length)
        degree = None if structure.read is None else torch.stack([rows[1], structure.read], dim=-1)
        walk = None if structure.walk is None else structure.walk.to(u.dtype)
        return replace(
            self._graph(rows, u, known, queries),
            refused=refused,
            coordinates=structure.coordinates,
            landmarks=structure.landmarks,
            degree=degree,
            walk=walk,
        )

    def _graph(
        self, rows: tuple[Tensor, Tensor, Tensor], u: Tensor, known: Known, queries: Tensor | None
    ) -> TokenGraph:
        """Rows (neighbors, counts, kinds) with their weights and gates."""
        neighbors, counts, kinds = rows
        log_gates = None
        if self.gate is not None and queries is not None:
            judged = self.gate.log_gates(queries, neighbors, counts, known.temporal)
            log_gates = torch.where((kinds == EdgeKind.SEMANTIC) & (neighbors >= 0), judged, 0)
        return TokenGraph(
            neighbors=neighbors,
            counts=counts,
            kinds=kinds,
            weights=ops.edge_scores(u, neighbors, counts, keys=known.features),
            positions=known.positions,
            semantic=known.semantic.detach(),
            layout=self.layout,
            similarity=self.similarity,
            causal=self.config.causal,
            log_gates=log_gates,
        )

    @torch.no_grad()
    def _semantic_edges(
        self, state: State, u: Tensor, known: Known, stream: GraphStream | None
    ) -> tuple[Tensor, Tensor]:
        """The most similar tokens of each row, best first: [B,T,K] int32, −1 pads; and how similar
        they are."""
        cfg, positions = self.config, known.positions
        if not cfg.semantic:
            none = positions.new_full((*positions.shape, 0), -1, dtype=torch.int32)
            return none, none.to(u.dtype)
        u, keys = u.detach(), known.features.detach()
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
        return indices, scores


def build_graph(state: State, config: GraphConfig) -> TokenGraph:
    """The graph of a state, with the configuration's own (untrained) weights and statistics."""
    with torch.no_grad():
        width = state.temporal.shape[-1]
        return GraphBuilder(config, state.layout, width).eval()(state)


def _whole_text(u: Tensor, state: State) -> Known:
    """The tokens of `state`, with no others before them; here gradients reach what is read."""
    positions = torch.arange(u.shape[1], device=u.device).expand(u.shape[:2])
    return Known(positions, u, state.semantic, state.temporal, Prefix())


def _check(state: State, layout: tuple[str, ...]) -> None:
    if state.layout != layout:
        raise InputError(f"the state has the blocks {state.layout}, the graph expects {layout}")
    if state.semantic.shape[0] == 0 or state.semantic.shape[1] == 0:
        raise InputError(
            f"cannot build a graph of no tokens: state of shape {list(state.semantic.shape)}"
        )
    check_finite(state.semantic, "the semantic state")
