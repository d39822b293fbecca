"""The convolution on CPU: fused with bias and activation, forward and backward (see kernels.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from state_core.ops.causal_conv1d import kernels
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.whole_lanes import padded, unpadded


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    activation: str | None,
) -> Tensor:
    """y [B,T,C]."""
    y: Tensor = _forward(x, weight, bias, initial_state, activation == "silu")
    return y


def _arrays(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Any, ...]:
    """What both kernels read: flat x, its strides, initial state, weight [W,C], bias."""
    x = padded(x)
    batch, length, channels = x.shape
    taps = weight.shape[1]
    if x.stride(-1) != 1:
        x = x.contiguous()
    span = (batch - 1) * x.stride(0) + (length - 1) * x.stride(1) + channels
    if initial_state is None:
        initial_state = x.new_zeros(batch, taps - 1, channels)
    bias = x.new_zeros(channels) if bias is None else bias
    return (
        x.as_strided((span,), (1,)).numpy(),
        x.stride()[:2],
        padded(initial_state).contiguous().numpy(),
        padded(weight.t()).contiguous().numpy(),
        padded(bias).contiguous().numpy(),
    )


@torch.library.custom_op("state_core::causal_conv1d", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> Tensor:
    match_torch_threads()
    y = padded(torch.empty(x.shape, dtype=x.dtype))
    kernels.forward(*_arrays(x, weight, bias, initial_state), silu, y.numpy())
    return unpadded(y, x.shape[2])


@_forward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("state_core::causal_conv1d_backward", mutates_args=())
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and initial state."""
    match_torch_threads()
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dy = padded(dy).contiguous()
    tasks = batch * -(-length // kernels.ROWS)
    dx, dinitial = torch.empty_like(dy), dy.new_empty(batch, taps - 1, dy.shape[2])
    dweight, dbias = dy.new_empty(tasks, taps, dy.shape[2]), dy.new_empty(tasks, dy.shape[2])
    *inputs, weight_t, bias_array = _arrays(x, weight, bias, initial_state)
    flipped = np.ascontiguousarray(weight_t[::-1])
    kernels.backward(
        dy.numpy(), *inputs, weight_t, flipped, bias_array, silu,
        dx.numpy(), dinitial.numpy(), dweight.numpy(), dbias.numpy(),
    )  # fmt: skip
    summed = unpadded(dweight.sum(0), channels).t().contiguous()
    return (
        unpadded(dx, channels),
        summed,
        unpadded(dbias.sum(0), channels),
        unpadded(dinitial, channels),
    )


@_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, channels = x.shape
    dinitial = x.new_empty(batch, weight.shape[1] - 1, channels)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), x.new_empty(channels), dinitial


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _grads(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state = ctx.saved_tensors
    dx, dweight, dbias, dinitial = torch.ops.state_core.causal_conv1d_backward(
        dy, x, weight, bias, initial_state, ctx.silu
    )
    dbias = None if bias is None else dbias
    return dx, dweight, dbias, None if initial_state is None else dinitial, None


_forward.register_autograd(_grads, setup_context=_setup_context)
