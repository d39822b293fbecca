"""The short causal depthwise convolution of Mamba layers.

    y_t = act(bias + sum_w weight[:, w] * x_{t-W+1+w})

for each channel alone; what stands before the first token is `initial_state`, or zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.causal_conv1d import naive

OP = Op(
    "causal_conv1d",
    {
        "cpu": Backend("state_core.ops.causal_conv1d.cpu", devices=("cpu",), requires=("numba",)),
        "naive": Backend("state_core.ops.causal_conv1d.naive"),
    },
)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    activation: str | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise causal convolution; differentiable in every tensor.

    x [B,T,C] (T >= 1; a slice of a larger tensor is read in place), weight [C,W], bias [C] or None,
    initial_state [B,W-1,C] or None: the last inputs before x. activation: "silu" or None. Returns
    y [B,T,C] in x's dtype and, with `return_state`, the last W-1 inputs [B,W-1,C] in at least
    float32, which is what the op computes in; a later call continues from them.

    Raises InputError for shapes that do not fit, BackendError for a backend that cannot run.
    """
    _check(x, weight, bias, initial_state, activation)
    run = OP.select(backend, x.device)
    if x.shape[1] == 1:
        run = naive.causal_conv1d  # one token: a handful of small tensor operations
    taps = weight.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    inputs = x.to(dtype)
    bias, initial_state = (None if t is None else t.to(dtype) for t in (bias, initial_state))
    y = run(inputs, weight.to(dtype), bias, initial_state, activation).to(x.dtype)
    return (y, _last_inputs(inputs, initial_state, taps - 1)) if return_state else y


def _last_inputs(x: Tensor, initial_state: Tensor | None, count: int) -> Tensor:
    """A copy, so that a stream does not hold on to the whole of x."""
    length = x.shape[1]
    if length >= count:
        return x[:, length - count :].clone()
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], count, x.shape[2])
    return torch.cat([initial_state[:, length:], x], dim=1)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    activation: str | None,
) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise InputError(f"causal_conv1d: x must be [B,T,C] with T >= 1, got {list(x.shape)}")
    batch, _, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise InputError(
            f"causal_conv1d: weight must be [C,W] with C={channels}, got {list(weight.shape)}"
        )
    wanted = {
        "bias": (bias, (channels,)),
        "initial_state": (initial_state, (batch, weight.shape[1] - 1, channels)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(
                f"causal_conv1d: {name} must be {list(shape)}, got {list(tensor.shape)}"
            )
    if activation not in (None, "silu"):
        raise InputError(f"causal_conv1d: activation must be 'silu' or None, got {activation!r}")
