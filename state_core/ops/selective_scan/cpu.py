"""The scan on CPU: one pass forward, one backward (see kernels.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core.ops.lanes import WIDTH
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.selective_scan import kernels
from state_core.ops.selective_scan.autograd import connect
from state_core.ops.widen import widen

CHUNK = 16  # tokens; what enters the chunks takes as much as u does at N = 16
_LOG2_E = 1.4426950408889634


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y [B,T,C] and the final state [B,C,N]."""
    y, final, _ = _forward(*widen(u, delta, A, B, C, D, initial_state))
    return y, final


def _strips(channels: int) -> int:
    return -(-channels // WIDTH)


def _in_strips(tensor: Tensor) -> Tensor:
    """[...,C] → [...,W,16], contiguous, with zeros after the last channel."""
    channels = tensor.shape[-1]
    padded = F.pad(tensor, (0, -channels % WIDTH)) if channels % WIDTH else tensor.contiguous()
    return padded.unflatten(-1, (-1, WIDTH))


def _state_in_strips(state: Tensor) -> Tensor:
    """[...,C,N] → [...,W,N,16], a copy."""
    return _in_strips(state.mT).transpose(-2, -3).clone(memory_format=torch.contiguous_format)


def _from_strips(strips: Tensor, channels: int) -> Tensor:
    """[...,W,16] → [...,C]."""
    return strips.flatten(-2)[..., :channels].contiguous()


def _state_from_strips(strips: Tensor, channels: int) -> Tensor:
    """[...,W,N,16] → [...,C,N]."""
    return strips.mT.flatten(-3, -2)[..., :channels, :].contiguous()


def _skip(D: Tensor | None, u: Tensor) -> Tensor:
    return _in_strips(u.new_zeros(u.shape[2]) if D is None else D)


def _state(state: Tensor | None, u: Tensor, n_state: int) -> Tensor:
    """A state, or zeros, in strips: a copy that a kernel may change."""
    if state is not None:
        return _state_in_strips(state)
    return u.new_zeros(u.shape[0], _strips(u.shape[2]), n_state, WIDTH)


@torch.library.custom_op("state_core::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states that enter the chunks (for the backward pass)."""
    batch, length, channels = u.shape
    state = _state(initial_state, u, A.shape[1])
    entering = u.new_empty(batch, -(-length // CHUNK), *state.shape[1:])
    values = _in_strips(u)
    y = torch.empty_like(values)
    match_torch_threads()
    kernels.forward(
        values.numpy(), _in_strips(delta).numpy(), _state_in_strips(A * _LOG2_E).numpy(),
        B.contiguous().numpy(), C.contiguous().numpy(), _skip(D, u).numpy(), CHUNK,
        state.numpy(), entering.numpy(), y.numpy(),
    )  # fmt: skip
    return _from_strips(y, channels), _state_from_strips(state, channels), entering


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, channels), n_state = u.shape, A.shape[1]
    entering = (batch, -(-length // CHUNK), _strips(channels), n_state, WIDTH)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    return y, u.new_empty(batch, channels, n_state), u.new_empty(entering)


@torch.library.custom_op("state_core::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    entering: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of u, delta, A, B, C, D and the initial state."""
    (batch, length, channels), n_state = u.shape, A.shape[1]
    dstate = _state(dfinal, u, n_state)
    values = _in_strips(u)
    du, ddelta = torch.empty_like(values), torch.empty_like(values)
    dlog_a, dskip = torch.zeros_like(dstate), u.new_zeros(batch, *values.shape[2:])
    groups = -(-values.shape[2] // kernels.GROUP)
    dB, dC = (u.new_empty(batch, groups, length, n_state) for _ in range(2))
    match_torch_threads()
    kernels.backward(
        _in_strips(dy).numpy(), values.numpy(), _in_strips(delta).numpy(),
        _state_in_strips(A * _LOG2_E).numpy(), B.contiguous().numpy(), C.contiguous().numpy(),
        _skip(D, u).numpy(), CHUNK, entering.numpy(), dstate.numpy(), du.numpy(), ddelta.numpy(),
        dlog_a.numpy(), dB.numpy(), dC.numpy(), dskip.numpy(),
    )  # fmt: skip
    return (
        _from_strips(du, channels),
        _from_strips(ddelta, channels),
        _state_from_strips(dlog_a.sum(0), channels),
        dB.sum(1),
        dC.sum(1),
        _from_strips(dskip.sum(0), channels),
        _state_from_strips(dstate, channels),
    )


@_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    entering: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (batch, _, channels), n_state = u.shape, A.shape[1]
    du, ddelta, dA, dB, dC = (u.new_empty(t.shape) for t in (u, delta, A, B, C))
    return du, ddelta, dA, dB, dC, u.new_empty(channels), u.new_empty(batch, channels, n_state)


connect(_forward, _backward)
