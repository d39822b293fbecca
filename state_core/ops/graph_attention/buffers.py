"""What a backend computes in, and the tensors that it fills.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row.
"""

from __future__ import annotations

import torch


def at_least_single(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The inputs in the precision of sums: bf16 and fp16 become fp32."""
    dtype = sum_dtype(q)
    return q.to(dtype), k.to(dtype), v.to(dtype), None if bias is None else bias.to(dtype)


def sum_dtype(q: torch.Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def outputs(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An empty output [B, H, T, M], which lies as the queries lie, and an empty lse [B, H, T]."""
    return _empty_like_heads(q, v.shape[3]), q.new_empty(q.shape[:3], dtype=sum_dtype(q))


def gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Empty gradients of each, which lie as their tensors lie; that of no bias has no entry."""
    like = [_empty_like_heads(x, x.shape[3]) for x in (q, k, v)]
    d_bias = q.new_empty(0, 0, 0, 0) if bias is None else bias.new_empty(bias.shape)
    return like[0], like[1], like[2], d_bias


def _empty_like_heads(x: torch.Tensor, width: int) -> torch.Tensor:
    """An empty [B, H, T, width], tokens outside heads where x lies so, that no one need copy it."""
    batch, heads, rows, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty(batch, rows, heads, width).transpose(1, 2)
    return x.new_empty(batch, heads, rows, width)


def rows_contiguous(x: torch.Tensor) -> torch.Tensor:
    """x [B, H, T, ·], copied if its last axis is not contiguous."""
    return x if x.stride(3) == 1 or x.shape[3] == 1 else x.contiguous()
