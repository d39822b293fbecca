"""The gate of a SwiGLU feed-forward (arXiv 2002.05202): gate and value in one tensor.

x = [g | u]          out = g * sigmoid(g) * u
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "swiglu",
    {
        "cpu": Backend("state_core.ops.swiglu.cpu", devices=("cpu",), requires=("numba",)),
        "naive": Backend("state_core.ops.swiglu.naive"),
    },
)


def swiglu(x: Tensor, backend: str = "auto") -> Tensor:
    """x [...,2F] → [...,F]; differentiable. Computes in at least float32, returns x's dtype.

    Raises InputError for an odd last dimension, BackendError for a backend that cannot run.
    """
    if x.dim() < 1 or x.shape[-1] % 2:
        raise InputError(f"swiglu: x must be [...,2F], got {list(x.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    out: Tensor = OP.select(backend, x.device)(x.to(dtype))
    return out.to(x.dtype)
