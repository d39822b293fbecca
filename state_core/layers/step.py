"""The graph's view of the step from a token's predecessor to the token: φ of topological Mamba.

How similar the two are; how many edges the token has outside its window, and how similar its best
is. With landmarks also how far apart the two are in the graph (a lower bound), how near (an upper
one), and how near the token is to each landmark. What is unknown is 0.

B batch, T new tokens, S tokens known, L landmarks, E edges of a row, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.config import GraphConfig
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.positions import coordinates_at, landmark_gap


def step_width(config: GraphConfig) -> int:
    """How many features F a step has."""
    return 3 + (2 + config.landmarks if config.landmarks else 0)


def step_features(graph: TokenGraph) -> Tensor:
    """φ [B,T,F] of the tokens that have rows; each depends on the text up to its token."""
    width = torch.arange(graph.neighbors.shape[-1], device=graph.neighbors.device)
    real = width < graph.counts[..., None]
    before = real & (graph.neighbors == graph.positions[..., None] - 1)
    semantic = real & (graph.kinds == EdgeKind.SEMANTIC)
    degree = (real & (graph.kinds != EdgeKind.SEQUENTIAL)).sum(-1)
    weights = graph.weights
    best = torch.where(semantic, weights, -torch.inf).amax(-1)
    features = [
        torch.where(before, weights, 0).sum(-1),
        torch.where(semantic.any(-1), best, 0),
        degree.to(weights.dtype).log1p(),
    ]
    phi = torch.stack(features, dim=-1)
    if graph.coordinates is None:
        return phi
    return torch.cat([phi, _by_landmarks(graph.coordinates, graph.positions).to(phi)], dim=-1)


def _by_landmarks(coordinates: Tensor, positions: Tensor) -> Tensor:
    """[B,T,2+L] for coordinates [B,S,L] and positions [B,T]."""
    here = coordinates_at(coordinates, positions)
    before = coordinates_at(coordinates, (positions - 1).clamp(min=0))
    before = torch.where(positions[..., None] > 0, before, -1)
    both = (here >= 0) & (before >= 0)
    near = torch.where(both, 1 / (1.0 + here + before), 0).amax(-1)
    apart = landmark_gap(here, before).log1p()
    proximity = torch.where(here >= 0, 1 / (1.0 + here.clamp(min=0)), 0)
    return torch.cat([apart[..., None], near[..., None], proximity], dim=-1)
