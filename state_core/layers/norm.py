"""RMSNorm (arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops


class RMSNorm(nn.Module):
    """[...,D] → [...,D], each vector scaled to unit mean square and then by `weight` [D]."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)
