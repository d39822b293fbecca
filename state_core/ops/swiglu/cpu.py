"""The SwiGLU gate on CPU, fused forward and backward (see kernels.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.swiglu import kernels
from state_core.ops.whole_lanes import padded, unpadded


def swiglu(x: Tensor) -> Tensor:
    """[...,2F] → [...,F]."""
    out: Tensor = _forward(x.reshape(-1, x.shape[-1]))
    return out.view(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("state_core::swiglu", mutates_args=())
def _forward(x: Tensor) -> Tensor:
    match_torch_threads()
    rows = padded(x, 2).contiguous()
    out = torch.empty(rows.shape[0], rows.shape[1] // 2, dtype=x.dtype)
    kernels.forward(rows.numpy(), out.numpy())
    return unpadded(out, x.shape[1] // 2)


@_forward.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op("state_core::swiglu_backward", mutates_args=())
def _backward(dout: Tensor, x: Tensor) -> Tensor:
    match_torch_threads()
    rows = padded(x, 2).contiguous()
    dx = torch.empty(rows.shape, dtype=x.dtype)
    kernels.backward(padded(dout).contiguous().numpy(), rows.numpy(), dx.numpy())
    return unpadded(dx, x.shape[1], 2)


@_backward.register_fake
def _(dout: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _grads(ctx: Any, dout: Tensor) -> Tensor:
    dx: Tensor = torch.ops.state_core.swiglu_backward(dout, *ctx.saved_tensors)
    return dx


_forward.register_autograd(_grads, setup_context=_setup_context)
