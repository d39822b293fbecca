"""A learned mask: each head learns below which similarity it ignores an edge of content.

Forward, the mask is hard: an edge with sim ≤ θ_h is not seen. Backward, θ has the gradient of the
soft mask σ(s·(sim − θ_h)) in its place, a straight-through estimate; everything else trains through
what the hard mask left. At first θ is below nearly every similarity of a semantic edge.

B batch, T tokens with rows, H heads, E edges of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph

SHARPNESS = 4.0
START = -0.5


class LearnedMask(nn.Module):
    """Thresholds of similarity, one a head."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((n_heads,), START))

    def forward(self, graph: TokenGraph) -> tuple[Tensor, Tensor]:
        """Which edges each head ignores, [B,H,T,E] bool, and the log of the soft mask in its place,
        0 for edges that are not of content; only thresholds train through it."""
        by_content = (graph.kinds == EdgeKind.SEMANTIC) | (graph.kinds == EdgeKind.SUCCESSOR)
        above = graph.weights.detach()[:, None] - self.threshold[:, None, None]
        of_content = by_content[:, None]
        soft = torch.where(of_content, F.logsigmoid(SHARPNESS * above), 0)
        return of_content & (above <= 0), soft


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` to the bit, with the gradient of `soft` added to its own."""
    return hard + (soft - soft.detach())
