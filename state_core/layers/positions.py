"""Rotary position embedding (RoPE, arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """The unit complex numbers e^{i·position·base^(−2m/D)}, [B,T,1,D/2], for positions [B,T]."""
    # Angles in float64: at position 100k float32 has lost the fast frequencies.
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    angles = positions[..., None, None] * base ** (-steps / head_dim)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (x_2m, x_2m+1) of heads [B,T,H,D] by `rotations`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation.to(pairs.dtype)).flatten(-2).to(x.dtype)


def split_heads(
    qkv: Tensor, n_heads: int, rotation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B,T,H,D] of a projection [B,T,3·H·D]; the first two rotated."""
    qk, v = qkv.unflatten(-1, (3 * n_heads, -1)).split([2 * n_heads, n_heads], dim=2)
    if rotation is not None:
        qk = rotate(qk, rotation)
    q, k = qk.chunk(2, dim=2)
    return q, k, v
