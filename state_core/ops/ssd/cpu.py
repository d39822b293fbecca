"""The chunked form on CPU: three parallel passes forward, three backward (see kernels.py)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.ssd import kernels
from state_core.ops.ssd.autograd import connect
from state_core.ops.ssd.matmul import PAD
from state_core.ops.widen import widen


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y [B,T,H,P] and the final state [B,H,P,N]."""
    y, final, _ = _forward(*widen(x, dt, A, B, C, D, initial_state), chunk_size)
    return y, final


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _flat(tensor: Tensor) -> tuple[np.ndarray, tuple[int, ...]]:
    """The memory of a [B,T,H,P] tensor as a flat array, and the strides of its first three axes."""
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).numpy(), tensor.stride()[:3]


class _Problem:
    """The arrays that the kernels of forward and backward share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> None:
        batch, length, heads, width = x.shape
        chunk = _round_up(min(chunk, length), PAD)
        self.dims = (batch, length, heads, width, B.shape[2], B.shape[3], chunk)
        self.x, self.B, self.C = _flat(x), _flat(B), _flat(C)
        self.steps = dt.contiguous().numpy()
        self.decay_t = torch.exp(dt * A).contiguous()
        self.decay = self.decay_t.numpy()
        self.chunks = -(-length // chunk)

    def empty_states(self, x: Tensor) -> Tensor:
        batch, _, heads, width, _, n_state, _ = self.dims
        shape = (
            batch,
            self.chunks,
            heads,
            _round_up(n_state, PAD),
            _round_up(width, PAD),
        )
        return x.new_empty(shape)

    def carry(self, x: Tensor, state: Tensor | None) -> Tensor:
        """A state [B,H,P,N], or zeros, in the kernels' padded [B,H,N,P] layout."""
        batch, _, heads, width, _, n_state, _ = self.dims
        carry = x.new_zeros(batch, heads, _round_up(n_state, PAD), _round_up(width, PAD))
        if state is not None:
            carry[:, :, :n_state, :width] = state.transpose(2, 3)
        return carry

    def totals(self) -> np.ndarray:
        """Each chunk's decay [B,c,H]."""
        batch, length, heads, *_, chunk = self.dims
        steps = torch.nn.functional.pad(self.decay_t, (0, 0, 0, -length % chunk), value=1.0)
        return steps.view(batch, -1, chunk, heads).prod(2).numpy()

    def state(self, carry: Tensor) -> Tensor:
        return carry[:, :, : self.dims[5], : self.dims[3]].transpose(2, 3).contiguous()


@torch.library.custom_op("state_core::ssd", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states that enter the chunks (for the backward pass)."""
    match_torch_threads()
    p = _Problem(x, dt, A, B, C, chunk_size)
    states, carry = p.empty_states(x), p.carry(x, initial_state)
    totals = np.empty(tuple(states.shape[:3]), p.decay.dtype)
    kernels.chunk_states(*p.x, *p.B, p.decay, p.steps, p.dims, states.numpy(), totals)
    kernels.scan_states(states.numpy(), totals, carry.numpy(), False)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    skip = torch.zeros_like(A) if D is None else D
    kernels.chunk_outputs(
        *p.x, *p.B, *p.C, skip.numpy(), p.decay, p.steps, p.dims, states.numpy(),
        initial_state is None, y.numpy(),
    )  # fmt: skip
    return y, p.state(carry), states


@_forward.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, width = x.shape
    n_state = B.shape[3]
    chunk = _round_up(min(chunk_size, length), PAD)
    chunks = -(-length // chunk)
    states = (batch, chunks, heads, _round_up(n_state, PAD), _round_up(width, PAD))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty(batch, heads, width, n_state), x.new_empty(states)


@torch.library.custom_op("state_core::ssd_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, dt, A, B, C, D and the initial state."""
    match_torch_threads()
    p = _Problem(x, dt, A, B, C, chunk_size)
    dy_flat = dy.contiguous().view(-1).numpy()
    grads, carry = p.empty_states(x), p.carry(x, dfinal)
    totals = p.totals()
    kernels.chunk_state_grads(dy_flat, *p.C, p.decay, p.steps, p.dims, grads.numpy())
    kernels.scan_states(grads.numpy(), totals, carry.numpy(), True)
    dx, ddt = torch.empty(x.shape, dtype=x.dtype), torch.empty(dt.shape, dtype=x.dtype)
    dB, dC = torch.empty(B.shape, dtype=x.dtype), torch.empty(C.shape, dtype=x.dtype)
    dA, dD = x.new_empty(states.shape[:3]), x.new_empty(states.shape[:3])
    skip = torch.zeros_like(A) if D is None else D
    starts_empty = not states[:, 0].any()
    kernels.chunk_grads(
        dy_flat, *p.x, *p.B, *p.C, A.numpy(), skip.numpy(), p.decay, p.steps, p.dims,
        states.numpy(), grads.numpy(), starts_empty, dfinal is None,
        dx.numpy(), ddt.numpy(), dA.numpy(), dB.numpy(), dC.numpy(), dD.numpy(),
    )  # fmt: skip
    return dx, ddt, dA.sum((0, 1)), dB, dC, dD.sum((0, 1)), p.state(carry)


@_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, heads, width = x.shape
    dx, ddt, dA, dB, dC, dD = (torch.empty(t.shape, dtype=x.dtype) for t in (x, dt, A, B, C, A))
    return dx, ddt, dA, dB, dC, dD, x.new_empty(batch, heads, width, B.shape[3])


connect(_forward, _backward)
