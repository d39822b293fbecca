"""The gated RMS norm at the end of a Mamba-2 layer.

    v = y * silu(z)          out = v / sqrt(mean(v^2) + eps) * weight

with the mean over each of `groups` equal slices of the last dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "gated_rms_norm",
    {
        "cpu": Backend("state_core.ops.gated_rms_norm.cpu", devices=("cpu",), requires=("numba",)),
        "naive": Backend("state_core.ops.gated_rms_norm.naive"),
    },
)


def gated_rms_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    groups: int = 1,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """RMS norm of y gated by silu(z); differentiable in every tensor.

    y and z [B,T,d] (z may be a slice of a larger tensor), weight [d], `groups` divides d. Computes
    in at least float32; returns [B,T,d] in y's dtype.

    Raises InputError for shapes that do not fit, BackendError for a backend that cannot run.
    """
    if y.dim() != 3 or z.shape != y.shape or 0 in y.shape:
        raise InputError(
            f"gated_rms_norm: y and z must be [B,T,d] alike and not empty, "
            f"got {list(y.shape)} and {list(z.shape)}"
        )
    if weight.shape != y.shape[2:]:
        raise InputError(f"gated_rms_norm: weight must be {[y.shape[2]]}, got {list(weight.shape)}")
    if groups < 1 or y.shape[2] % groups:
        raise InputError(f"gated_rms_norm: groups={groups} must divide d={y.shape[2]}")
    dtype = torch.promote_types(y.dtype, torch.float32)
    run = OP.select(backend, y.device)
    out: Tensor = run(y.to(dtype), z.to(dtype), weight.to(dtype), groups, eps)
    return out.to(y.dtype)
