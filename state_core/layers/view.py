"""What a layer sees besides the residual stream: positions, and the graph's rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from state_core.graph.token_graph import TokenGraph
from state_core.layers.positions import landmark_gap


@dataclass(frozen=True)
class LayerView:
    """B batch, T new tokens, S tokens known, L landmarks, E edges of a row.

    positions [B,T]: absolute positions of the new tokens; rotation [B or 1,T,1,D/2]: their rotary
    embedding, None without one; graph: their rows, None without a graph; cached: whether the layers
    must return what the next tokens need; coordinates [B,S,L] int32: distances of all tokens known
    to the landmarks of the graph, −1 unreached, None without landmarks.
    """

    positions: Tensor
    rotation: Tensor | None
    graph: TokenGraph | None
    cached: bool
    coordinates: Tensor | None = None

    @cached_property
    def edge_gaps(self) -> Tensor:
        """[B,T,E]: for each edge a lower bound of its ends' distance, computed once for all layers;
        0 where nothing is known, and beyond a row's edges."""
        assert self.graph is not None
        assert self.coordinates is not None
        neighbors = self.graph.neighbors.clamp(min=0).long()
        here = coordinates_at(self.coordinates, self.positions)
        there = coordinates_at(self.coordinates, neighbors.flatten(1))
        return landmark_gap(here[:, :, None], there.unflatten(1, neighbors.shape[1:]))


def coordinates_at(coordinates: Tensor, positions: Tensor) -> Tensor:
    """Coordinates [B,S,L] of the tokens at `positions` [B,N]: [B,N,L]."""
    return coordinates.gather(1, positions[..., None].expand(-1, -1, coordinates.shape[-1]))
