"""The reference: the recurrence, one token after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.widen import widen


def step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: x [B,H,P], dt [B,H], B and C [B,G,N], state [B,H,P,N] → y [B,H,P], new state."""
    per_group = x.shape[1] // B.shape[1]
    key = B.repeat_interleave(per_group, dim=1)
    query = C.repeat_interleave(per_group, dim=1)
    written = (x * dt[..., None])[..., None] * key[..., None, :]
    state = state * torch.exp(dt * A)[..., None, None] + written
    y = (state @ query[..., None])[..., 0]
    return (y if D is None else y + D[:, None] * x), state


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
    """y [B,T,H,P] and the final state [B,H,P,N]; `chunk_size` changes nothing here."""
    x, dt, A, B, C, D, state = widen(x, dt, A, B, C, D, initial_state)
    batch, length, heads, width = x.shape
    if state is None:
        state = x.new_zeros(batch, heads, width, B.shape[-1])
    rows = []
    for t in range(length):
        y, state = step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, state)
        rows.append(y)
    return torch.stack(rows, dim=1), state
