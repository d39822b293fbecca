"""Differential attention (Ye et al. 2024, arXiv 2410.05258): what one map sees less another.

    DiffAttn = (softmax(q1·k1/√d) − λ softmax(q2·k2/√d)) v,   then RMSNorm per head, × (1 − λ_init)
    λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init,   λ_init = 0.8 − 0.6 e^(−0.3 l) in layer l = 0, 1 …

Heads 2h and 2h+1 of queries and keys are the two maps of differential head h, whose values are
those of both, 2d wide: as many parameters as plain attention. Both maps see the same edges.

B batch, T tokens with rows, S tokens known, H heads, d head width, E edges of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from state_core.layers.norm import RMSNorm

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q [B,H,T,d], k [B,H,S,d], v [B,H,S,M], bias per head or None) → [B,H,T,M]."""


class DifferentialHeads(nn.Module):
    """Turns any softmax attention into a differential one, whichever edges it is over."""

    def __init__(self, head_dim: int, index: int) -> None:
        super().__init__()
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * index)
        self.lambda_q = nn.Parameter(0.1 * torch.randn(2, head_dim))
        self.lambda_k = nn.Parameter(0.1 * torch.randn(2, head_dim))
        self.norm = RMSNorm(2 * head_dim)

    def forward(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Tensor:
        """q [B,H,T,d], k and v [B,H,S,d], bias [B,H,T,…] → [B,H/2,T,2d]."""
        both = v.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        signal, noise = (
            attend(q[:, m::2], k[:, m::2], both, None if bias is None else bias[:, m::2])
            for m in (0, 1)
        )
        return self.norm(signal - self.weight().to(noise) * noise) * (1 - self.lambda_init)

    def weight(self) -> Tensor:
        """λ, one number for all heads of the layer."""
        signal, noise = (self.lambda_q * self.lambda_k).sum(-1).exp()
        return signal - noise + self.lambda_init
