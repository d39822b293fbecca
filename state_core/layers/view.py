"""What a layer sees besides the residual stream: positions, and what the graph says.

What several layers read is computed here, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from state_core.config import SOSMConfig
from state_core.graph.token_graph import TokenGraph
from state_core.layers.block_heads import edge_blocks
from state_core.layers.positions import (
    coordinates_at,
    landmark_gap,
    landmark_rotations,
    rotations,
)
from state_core.layers.step import step_features
from state_core.memory.text_memory import Recalled


@dataclass(frozen=True)
class LayerView:
    """B batch, T new tokens, E edges of a row, F features of a step.

    positions [B,T]: absolute positions of the new tokens; rotation [B or 1,T,1,D/2]: by how much
    their queries and keys turn; graph: their rows; edge_gaps [B,T,E]: for each edge a lower bound
    of its ends' distance in the graph; step [B,T,F]: the graph's view of the step from each token's
    predecessor to it; edge_blocks [B,T,E]: the block that each edge belongs to, −1 for all;
    refused: the same of the edges that the TEMPORAL gate turned down; each None where no layer
    reads it. cached: whether the layers must return what the next tokens need. recalled: what was
    found in memory, None without one and in layers that do not read it.
    """

    positions: Tensor
    rotation: Tensor | None
    graph: TokenGraph | None
    cached: bool
    edge_gaps: Tensor | None = None
    step: Tensor | None = None
    edge_blocks: Tensor | None = None
    refused: LayerView | None = None
    recalled: Recalled | None = None


def build_view(
    config: SOSMConfig, positions: Tensor, graph: TokenGraph | None, cached: bool
) -> LayerView:
    """The view of the tokens at `positions` [B,T] that layers built from `config` need."""
    rotation = _rotation(config, positions, graph, cached)
    if graph is None:
        return LayerView(positions, rotation, None, cached)
    step = step_features(graph) if config.mamba.topological else None
    view = _with_edges(LayerView(positions, rotation, graph, cached, step=step), graph, config)
    if graph.refused is None:
        return view
    refused = replace(graph.refused, coordinates=graph.coordinates)
    return replace(view, refused=_with_edges(view, refused, config))


def _with_edges(view: LayerView, graph: TokenGraph, config: SOSMConfig) -> LayerView:
    """The view of other edges."""
    attention = config.attention
    return replace(
        view,
        graph=graph,
        edge_gaps=edge_gaps(graph) if attention.positions == "graph_alibi" else None,
        edge_blocks=edge_blocks(graph) if attention.multi_block else None,
    )


def edge_gaps(graph: TokenGraph) -> Tensor:
    """max_l |d_il − d_jl| of each edge (i, j), [B,T,E]; 0 where nothing is known."""
    assert graph.coordinates is not None
    neighbors = graph.neighbors.clamp(min=0).long()
    here = coordinates_at(graph.coordinates, graph.positions)
    there = coordinates_at(graph.coordinates, neighbors.flatten(1))
    return landmark_gap(here[:, :, None], there.unflatten(1, neighbors.shape[1:]))


def _rotation(
    config: SOSMConfig, positions: Tensor, graph: TokenGraph | None, cached: bool
) -> Tensor | None:
    attention = config.attention
    if attention.positions not in ("rope", "graph_rope"):
        return None
    head_dim = config.d_model // attention.n_heads
    # Without a cache every row starts at 0: one row of angles serves all.
    rows = positions if cached else positions[:1]
    rotation = rotations(rows, head_dim, attention.rope_base)
    if attention.positions == "rope":
        return rotation
    assert graph is not None
    assert graph.coordinates is not None
    return rotation * landmark_rotations(coordinates_at(graph.coordinates, positions), head_dim)
