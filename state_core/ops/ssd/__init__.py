"""State-space duality: the selective scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060).

Per batch row and head, with the state S a P x N matrix (B_t, C_t of the head's group):

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T          y_t = S_t C_t + D x_t

Written out, y_t = sum_{u<=t} (C_t . B_u) exp(A sum_{u<s<=t} dt_s) dt_u x_u: a causal attention
without softmax whose mask is a product of decays. The fast backends cut the sequence into chunks,
use this matrix form inside a chunk and hand the state S on from chunk to chunk, so the work is
linear in T and nearly all of it is small matrix products.
"""

from __future__ import annotations

from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.ssd.naive import ssd as naive

OP = Op(
    "ssd",
    {
        "mamba_ssm": Backend(
            "state_core.ops.ssd.mamba_ssm", devices=("cuda",), requires=("mamba_ssm",)
        ),
        "cpu": Backend("state_core.ops.ssd.cpu", devices=("cpu",), requires=("numba",)),
        "triton": Backend("state_core.ops.ssd.triton", ("cuda",), ("triton",)),
        "chunked": Backend("state_core.ops.ssd.chunked"),
        "naive": Backend("state_core.ops.ssd.naive"),
    },
)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    chunk_size: int = 64,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The Mamba-2 scan; differentiable in every tensor.

    x [B,T,H,P], dt [B,T,H] positive (softplus done), A [H] negative, B and C [B,T,G,N] with H a
    multiple of G, D [H] or None, initial_state [B,H,P,N] or None for zeros; T >= 1, of any length.
    Returns y [B,T,H,P] in x's dtype and, with `return_state`, the final state [B,H,P,N] in at least
    float32, which is what the scan computes in. One token alone (T = 1) is one recurrence step.

    Raises InputError for shapes that do not fit, BackendError for a backend that cannot run.
    """
    _check(x, dt, A, B, C, D, initial_state, chunk_size)
    run = OP.select(backend, x.device)
    if x.shape[1] == 1:
        run = naive  # one step of the recurrence is all there is to do
    y, state = run(x, dt, A, B, C, D, initial_state, chunk_size)
    y = y.to(x.dtype)
    return (y, state) if return_state else y


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> None:
    if x.dim() != 4 or x.shape[1] < 1:
        raise InputError(f"ssd: x must be [B,T,H,P] with T >= 1, got {list(x.shape)}")
    batch, length, heads, width = x.shape
    if B.dim() != 4 or heads % max(B.shape[2], 1):
        raise InputError(f"ssd: B must be [B,T,G,N] with G dividing H={heads}, got {list(B.shape)}")
    groups, n_state = B.shape[2:]
    wanted = {
        "dt": (dt, (batch, length, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, length, groups, n_state)),
        "C": (C, (batch, length, groups, n_state)),
        "D": (D, (heads,)),
        "initial_state": (initial_state, (batch, heads, width, n_state)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(f"ssd: {name} must be {list(shape)}, got {list(tensor.shape)}")
    if chunk_size < 1:
        raise InputError(f"ssd: chunk_size must be at least 1, got {chunk_size}")
