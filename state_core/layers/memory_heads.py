"""What the heads of an attention layer take from memory.

Each head attends to the items retrieved for a token, with a softmax of their own, and a gate per
head mixes that with what it read in the text: y = g·memory + (1 − g)·local (Memorizing
Transformers, arXiv 2203.08913). A token for which nothing was retrieved keeps what it read.

B batch, T tokens, K items, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core.layers.point import Point
from state_core.memory.text_memory import Recalled

LOCAL_FIRST = -2.0  # the gate's logit at first: memory must earn its share


class MemoryHeads(nn.Module):
    """Mixes memory into the output of an attention layer's heads."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((n_heads,), LOCAL_FIRST))
        self.similarity_scale = nn.Parameter(torch.ones(n_heads))
        self.share = Point("[B,T,H,K]")

    def forward(self, local: Tensor, q: Tensor, recalled: Recalled) -> Tensor:
        """local [B,T,H·D], queries [B,T,H,D] without positions → [B,T,H·D]."""
        keys, values = recalled.layer.to(q.dtype).unbind(3)
        scores = torch.einsum("bthd,btkhd->bthk", q * q.shape[-1] ** -0.5, keys)
        similar = recalled.similarities.masked_fill(~recalled.known, 0).to(q.dtype)
        scores = scores + self.similarity_scale[:, None] * similar[:, :, None]
        hidden = torch.finfo(scores.dtype).min
        share = scores.masked_fill(~recalled.known[:, :, None], hidden).softmax(-1)
        share = self.share(share)
        read = torch.einsum("bthk,btkhd->bthd", share, values)
        gate = self.gate.sigmoid()[:, None] * recalled.known.any(-1)[:, :, None, None]
        local = local.unflatten(-1, q.shape[2:])
        return (local + gate.to(local.dtype) * (read - local)).flatten(2)
