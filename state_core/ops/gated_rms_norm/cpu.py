"""The gated RMS norm on CPU, fused forward and backward (see kernels.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from state_core.ops.gated_rms_norm import kernels
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.whole_lanes import padded, unpadded


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """[B,T,d]."""
    out: Tensor = _forward(y, z, weight, groups, eps)
    return out


def _flat(z: Tensor) -> tuple[np.ndarray, tuple[int, ...]]:
    """The memory of z as one flat array, and the strides of its first two axes."""
    if z.stride(-1) != 1:
        z = z.contiguous()
    span = (z.shape[0] - 1) * z.stride(0) + (z.shape[1] - 1) * z.stride(1) + z.shape[2]
    return z.as_strided((span,), (1,)).numpy(), z.stride()[:2]


@torch.library.custom_op("state_core::gated_rms_norm", mutates_args=())
def _forward(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    match_torch_threads()
    rows, width = padded(y, groups).contiguous(), y.shape[2]
    out = torch.empty(rows.shape, dtype=y.dtype)
    kernels.forward(
        rows.numpy(), *_flat(padded(z, groups)), padded(weight, groups).contiguous().numpy(),
        groups, width // groups, eps, out.numpy(),
    )  # fmt: skip
    return unpadded(out, width, groups)


@_forward.register_fake
def _(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    return y.new_empty(y.shape)


@torch.library.custom_op("state_core::gated_rms_norm_backward", mutates_args=())
def _backward(
    dout: Tensor, y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of y, z and weight."""
    match_torch_threads()
    rows, width = padded(y, groups).contiguous(), y.shape[2]
    batch, length, across = rows.shape
    dy, dz = torch.empty(rows.shape, dtype=y.dtype), torch.empty(rows.shape, dtype=y.dtype)
    dweight = np.empty((batch * -(-length // kernels.ROWS), across), dy.numpy().dtype)
    kernels.backward(
        padded(dout, groups).contiguous().numpy(), rows.numpy(), *_flat(padded(z, groups)),
        padded(weight, groups).contiguous().numpy(), groups, width // groups, eps,
        dy.numpy(), dz.numpy(), dweight,
    )  # fmt: skip
    grads = (dy, dz, torch.from_numpy(dweight).sum(0))
    dy, dz, summed = (unpadded(grad, width, groups) for grad in grads)
    return dy, dz, summed


@_backward.register_fake
def _(
    dout: Tensor, y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.groups, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _grads(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.state_core.gated_rms_norm_backward(
        dout, *ctx.saved_tensors, ctx.groups, ctx.eps
    )
    return *grads, None, None


_forward.register_autograd(_grads, setup_context=_setup_context)
