"""What the heads of every attention layer share, whichever keys they attend to.

B batch, T tokens with rows, S tokens known, H heads, D head width, E keys of a row.
"""

from __future__ import annotations

from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.differential import ALL_HEADS, Attend, DifferentialHeads
from state_core.layers.positions import alibi_slopes


class AttentionHeads(nn.Module):
    """Plain or differential heads, and the slopes of those that are biased against distance."""

    slopes: Tensor

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        attention = config.attention
        self.biased = attention.positions in ("alibi", "graph_alibi")
        maps = 2 if attention.differential else 1
        slopes = alibi_slopes(attention.n_heads // maps).repeat_interleave(maps)
        self.register_buffer("slopes", slopes, persistent=False)
        self.differential: DifferentialHeads | None = None
        if attention.differential:
            self.differential = DifferentialHeads(config.d_model // attention.n_heads, index)

    def distance_bias(self, distance: Tensor) -> Tensor | None:
        """−slope·distance [B,H,T,E] for distances [B,T,E]; None where positions are not biases."""
        if not self.biased:
            return None
        return -self.slopes[:, None, None] * distance[:, None]

    def forward(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B,T,H,D], k and v [B,S,H,D] → [B,T,H·D]."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.differential is None:
            y = attend(q, k, v, ALL_HEADS)
        else:
            y = self.differential(attend, q, k, v)
        return y.transpose(1, 2).flatten(2)
