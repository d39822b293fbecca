"""The reference, in the order of the formula."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[...,d]."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
