"""Rotary position embedding (RoPE, arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotates pairs (x_m, x_{m+D/2}) of queries and keys by position · base^(−2m/D)."""

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        self.base = base

    def forward(self, positions: Tensor, *heads: Tensor) -> list[Tensor]:
        """Rotate each of `heads` [B,T,H,D] for tokens at `positions` [B,T]."""
        # Angles in float64: at position 100k float32 has lost the fast frequencies.
        frequency = self.base ** -self.exponents.to(positions.device)
        angles = positions[..., None, None] * frequency
        cos, sin = angles.cos().to(heads[0].dtype), angles.sin().to(heads[0].dtype)
        return [_rotate(x, cos, sin) for x in heads]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
