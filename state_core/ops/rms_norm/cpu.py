"""The RMS norm on CPU, fused forward and backward (see kernels.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.rms_norm import kernels
from state_core.ops.whole_lanes import padded, unpadded


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[...,d]."""
    out: Tensor = _forward(x.reshape(-1, x.shape[-1]), weight, eps)
    return out.view(x.shape)


@torch.library.custom_op("state_core::rms_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    match_torch_threads()
    rows, size = padded(x).contiguous(), x.shape[1]
    out = torch.empty(rows.shape, dtype=x.dtype)
    kernels.forward(rows.numpy(), padded(weight).contiguous().numpy(), size, eps, out.numpy())
    return unpadded(out, size)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("state_core::rms_norm_backward", mutates_args=())
def _backward(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight."""
    match_torch_threads()
    rows, size = padded(x).contiguous(), x.shape[1]
    dx = torch.empty(rows.shape, dtype=x.dtype)
    dweight = np.empty((-(-rows.shape[0] // kernels.ROWS), rows.shape[1]), dx.numpy().dtype)
    kernels.backward(
        padded(dout).contiguous().numpy(), rows.numpy(), padded(weight).contiguous().numpy(),
        size, eps, dx.numpy(), dweight,
    )  # fmt: skip
    return unpadded(dx, size), unpadded(torch.from_numpy(dweight).sum(0), size)


@_backward.register_fake
def _(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _grads(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.state_core.rms_norm_backward(dout, *ctx.saved_tensors, ctx.eps)
    return *grads, None


_forward.register_autograd(_grads, setup_context=_setup_context)
