"""What a token graph looks like in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from state_core.graph.neighbors import EdgeKind

if TYPE_CHECKING:
    from state_core.graph.token_graph import TokenGraph


@dataclass(frozen=True)
class GraphStats:
    """Means over the tokens of the batch; shares over its edges."""

    edges: int
    out_degree: float
    in_degree_max: int
    in_degree_skewness: float
    """Of the in-degree over semantic edges; large when few tokens are hubs."""
    kinds: dict[str, int]
    block_shares: dict[str, float]
    """Mean share of each block in the weight of semantic edges, by absolute contribution."""
    reciprocity: float
    """Share of edges between different tokens whose reverse exists too; 0 in a causal graph."""


def graph_stats(graph: TokenGraph) -> GraphStats:
    source, target = graph.edge_index
    semantic = graph.kind == EdgeKind.SEMANTIC
    nodes = graph.batch_size * graph.num_nodes
    in_degree = torch.bincount(target[semantic], minlength=nodes).double()
    kinds = torch.bincount(graph.kind.long(), minlength=len(EdgeKind)).tolist()
    return GraphStats(
        edges=source.numel(),
        out_degree=source.numel() / max(graph.counts.numel(), 1),
        in_degree_max=int(in_degree.max()) if nodes else 0,
        in_degree_skewness=_skewness(in_degree),
        kinds={kind.name.lower(): kinds[kind] for kind in EdgeKind},
        block_shares=_block_shares(graph, semantic),
        reciprocity=_reciprocity(source, target, nodes),
    )


def _skewness(values: Tensor) -> float:
    spread = values - values.mean()
    std = spread.square().mean().sqrt()
    return float((spread / std).pow(3).mean()) if std > 0 else 0.0


def _block_shares(graph: TokenGraph, chosen: Tensor) -> dict[str, float]:
    shares = graph.contributions[chosen].abs().sum(0)
    total = float(shares.sum())
    return {
        n: float(s) / total if total else 0.0 for n, s in zip(graph.layout, shares, strict=True)
    }


def _reciprocity(source: Tensor, target: Tensor, nodes: int) -> float:
    between = source != target
    source, target = source[between], target[between]
    if not source.numel():
        return 0.0
    return float(torch.isin(source * nodes + target, target * nodes + source).double().mean())
