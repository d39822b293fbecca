"""The reference: gather every neighbour, then attend. O(T·E·D) memory.

Shapes: B batch, T query tokens, S key tokens, H heads, D and M head widths, E edges of a row.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.graph_attention.buffers import at_least_single


def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `state_core.ops.graph_attention`; always with the log-sum-exp."""
    dtype = q.dtype
    q, k, v, bias = at_least_single(q, k, v, bias)
    batch, _, sources, _ = k.shape
    edges = neighbors.shape[2]
    valid = torch.arange(edges, device=q.device) < counts[..., None]  # [B, T, E]
    index = torch.where(valid, neighbors, 0).long()
    if bool(((index < 0) | (index >= sources)).any()) or bool(
        ((counts < 0) | (counts > edges)).any()
    ):
        raise InputError(f"counts must be within 0 … {edges}, neighbors within 0 … {sources - 1}")
    row = torch.arange(batch, device=q.device)[:, None, None]
    keys = k[row, :, index]  # [B, T, E, H, D]
    values = v[row, :, index]  # [B, T, E, H, M]
    scores = torch.einsum("bhtd,btehd->bhte", q, keys) * scale
    if bias is not None:
        scores = scores + bias
    valid = valid[:, None]
    scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).masked_fill(~valid, 0.0)
    lse = scores.logsumexp(-1).masked_fill(counts[:, None] == 0, -torch.inf)
    return torch.einsum("bhte,btehm->bhtm", weights, values).to(dtype), lse
