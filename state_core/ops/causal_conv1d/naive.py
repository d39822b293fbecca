"""The reference: a sum of shifted inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    activation: str | None,
) -> Tensor:
    """y [B,T,C]."""
    length, taps = x.shape[1], weight.shape[1]
    if initial_state is None:
        window = F.pad(x, (0, 0, taps - 1, 0))
    else:
        window = torch.cat([initial_state, x], dim=1)
    y = window[:, :length] * weight[:, 0]
    for w in range(1, taps):
        y = y + window[:, w : w + length] * weight[:, w]
    if bias is not None:
        y = y + bias
    return F.silu(y) if activation == "silu" else y
