"""The selective scan of Mamba-1 (Gu & Dao 2023, arXiv 2312.00752).

Per batch row and channel c, with the state S_c a vector of N numbers and a step size of its own:

    S_t = exp(delta_t A) S_{t-1} + delta_t u_t B_t          y_t = S_t . C_t + D u_t

A is discretised exactly, B by Euler's rule, as in the authors' code. Unlike in Mamba-2 (`ssd`),
every channel and state number decays at a rate of its own, so that no matrix product stands in for
the recurrence: the op costs one exponential for each of the B T C N states.
"""

from __future__ import annotations

from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.selective_scan.naive import selective_scan as naive

OP = Op(
    "selective_scan",
    {
        "cpu": Backend("state_core.ops.selective_scan.cpu", ("cpu",), ("numba",)),
        "triton": Backend("state_core.ops.selective_scan.triton", ("cuda",), ("triton",)),
        "naive": Backend("state_core.ops.selective_scan.naive"),
    },
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The Mamba-1 scan; differentiable in every tensor.

    u [B,T,C], delta [B,T,C] positive (softplus done), A [C,N] negative, B and C [B,T,N], D [C] or
    None, initial_state [B,C,N] or None for zeros; T >= 1, of any length. Returns y [B,T,C] in u's
    dtype and, with `return_state`, the final state [B,C,N] in at least float32, which is what the
    scan computes in. One token alone (T = 1) is one recurrence step.

    Raises InputError for shapes that do not fit, BackendError for a backend that cannot run.
    """
    _check(u, delta, A, B, C, D, initial_state)
    run = OP.select(backend, u.device)
    if u.shape[1] == 1:
        run = naive  # one step of the recurrence is all there is to do
    y, state = run(u, delta, A, B, C, D, initial_state)
    y = y.to(u.dtype)
    return (y, state) if return_state else y


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() != 3 or u.shape[1] < 1:
        raise InputError(f"selective_scan: u must be [B,T,C] with T >= 1, got {list(u.shape)}")
    batch, length, channels = u.shape
    if A.dim() != 2:
        raise InputError(f"selective_scan: A must be [C={channels},N], got {list(A.shape)}")
    n_state = A.shape[1]
    wanted = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, n_state)),
        "B": (B, (batch, length, n_state)),
        "C": (C, (batch, length, n_state)),
        "D": (D, (channels,)),
        "initial_state": (initial_state, (batch, channels, n_state)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(
                f"selective_scan: {name} must be {list(shape)}, got {list(tensor.shape)}"
            )
