"""Dense attention: the transformer baseline's mixer, as in Llama.

B batch, T new tokens, S tokens known, H heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.attention_heads import AttentionHeads
from state_core.layers.kv_cache import KVCache
from state_core.layers.point import Point
from state_core.layers.positions import split_heads
from state_core.layers.view import LayerView


class DenseAttention(nn.Module):
    """Softmax attention over all earlier tokens; in an encoder over all."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.n_heads = config.attention.n_heads
        self.causal = config.objective == "next_token"
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.heads = AttentionHeads(config, index)
        self.q, self.k, self.v = (Point("[B,T,H,D/H]") for _ in range(3))
        self.z = Point("[B,T,H,D/H]")

    def forward(
        self, x: Tensor, view: LayerView, state: KVCache | None
    ) -> tuple[Tensor, KVCache | None]:
        """[B,T,D] → [B,T,D], and the keys and values so far when decoding."""
        q, k, v = split_heads(self.qkv(x), self.n_heads, view.rotation)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if view.cached:
            state = state or KVCache()
            k, v = state.write(k, v, view.positions)
        mask, bias = None, None
        if view.cached or self.heads.biased:
            distance = view.positions[..., None] - torch.arange(k.shape[1], device=k.device)
            mask = (distance >= 0)[:, None] | (not self.causal)
            bias = self.heads.distance_bias(distance.abs())

        def attend(q: Tensor, k: Tensor, v: Tensor, heads: slice) -> Tensor:
            seen = mask
            if bias is not None and mask is not None:
                seen = bias[:, heads].to(q.dtype).masked_fill(~mask, -torch.inf)
            causal = self.causal and seen is None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)

        y = self.heads(attend, q, k, v).unflatten(-1, (self.n_heads, -1))
        return self.out(self.z(y).flatten(2)), state
