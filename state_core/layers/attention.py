"""Dense causal attention: the transformer baseline's mixer, as in Llama.

B batch, T new tokens, S tokens known, H heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.kv_cache import KVCache
from state_core.layers.positions import split_heads
from state_core.layers.view import LayerView


class CausalAttention(nn.Module):
    """Softmax attention over all earlier tokens."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.n_heads = config.attention.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(
        self, x: Tensor, view: LayerView, state: KVCache | None
    ) -> tuple[Tensor, KVCache | None]:
        """[B,T,D] → [B,T,D], and the keys and values so far when decoding."""
        q, k, v = split_heads(self.qkv(x), self.n_heads, view.rotation)
        mask = None
        if view.cached:
            state = state or KVCache()
            k, v = state.write(k, v, view.positions)
            mask = _past(view.positions, k.shape[1])
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out(y.transpose(1, 2).flatten(2)), state


def _past(positions: Tensor, length: int) -> Tensor:
    """Which of `length` keys each query may see: [B,1,T,S] bool."""
    return (torch.arange(length, device=positions.device) <= positions[..., None])[:, None]
