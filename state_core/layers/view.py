"""What a layer sees besides the residual stream: positions, and the graph's rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from state_core.graph.token_graph import TokenGraph


@dataclass(frozen=True)
class LayerView:
    """B batch, T new tokens.

    positions [B,T]: absolute positions of the new tokens; rotation [B or 1,T,1,D/2]: their rotary
    embedding, None without one; graph: their rows, None without a graph; cached: whether the layers
    must return what the next tokens need.
    """

    positions: Tensor
    rotation: Tensor | None
    graph: TokenGraph | None
    cached: bool
