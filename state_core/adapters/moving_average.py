"""Causal exponential moving averages by matrix products.

y_t = a·y_{t−1} + (1 − a)·x_t, a = 2^(−1/half-life), in chunks of Q tokens: inside a chunk a
lower-triangular Toeplitz matrix, between chunks a second one over the chunks' ends.
B batch, T tokens, N averages, W width, Q chunk, C = ⌈T/Q⌉ chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64


def moving_average(x: Tensor, decay: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average `x` [B,T,N,W] with `decay` [N] from `past` [B,N,W] (zeros if None).

    Returns y [B,T,N,W] and the last average [B,N,W].
    """
    batch, length, n, width = x.shape
    if past is None:
        past = x.new_zeros(batch, n, width)
    if length == 1:
        a = decay[:, None]
        y = a * past + (1 - a) * x[:, 0]
        return y[:, None], y
    chunks = -(-length // CHUNK)
    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, chunks * CHUNK - length))
    x = x.view(batch, chunks, CHUNK, n, width)

    inner = torch.einsum(
        "nts,bcsnw->bctnw", _toeplitz(decay, CHUNK) * (1 - decay)[:, None, None], x
    )
    ends = torch.cat([past[:, None], inner[:, :-1, -1]], dim=1)
    carried = torch.einsum("ncd,bdnw->bcnw", _toeplitz(decay**CHUNK, chunks), ends)
    powers = decay ** torch.arange(1, CHUNK + 1, device=x.device, dtype=x.dtype)[:, None]
    y = inner + powers[:, :, None] * carried[:, :, None]
    y = y.reshape(batch, chunks * CHUNK, n, width)[:, :length]
    return y, y[:, -1]


def _toeplitz(decay: Tensor, size: int) -> Tensor:
    """decay^(t − s) for s ≤ t, else 0: [N, size, size]."""
    steps = torch.arange(size, device=decay.device, dtype=decay.dtype)
    lag = steps[:, None] - steps[None, :]
    return torch.where(lag >= 0, decay[:, None, None] ** lag.clamp(min=0), 0.0)
