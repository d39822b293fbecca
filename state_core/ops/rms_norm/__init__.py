"""The RMS norm (arXiv 1910.07467).

out = x / sqrt(mean(x^2) + eps) * weight          over the last dimension
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "rms_norm",
    {
        "cpu": Backend("state_core.ops.rms_norm.cpu", devices=("cpu",), requires=("numba",)),
        "naive": Backend("state_core.ops.rms_norm.naive"),
    },
)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, backend: str = "auto") -> Tensor:
    """x [...,d], weight [d] → [...,d]; differentiable in both. Computes in at least float32,
    returns x's dtype.

    Raises InputError for shapes that do not fit, BackendError for a backend that cannot run.
    """
    if x.dim() < 1 or weight.shape != x.shape[-1:]:
        raise InputError(f"rms_norm: weight {list(weight.shape)} does not go with {list(x.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    out: Tensor = OP.select(backend, x.device)(x.to(dtype), weight.to(dtype), eps)
    return out.to(x.dtype)
