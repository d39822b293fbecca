"""The reference: the recurrence, one token after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.widen import widen


def step(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: u and delta [B,C], B and C [B,N], state [B,C,N] → y [B,C], the new state."""
    written = (delta * u)[..., None] * B[:, None, :]
    state = torch.exp(delta[..., None] * A) * state + written
    y = (state @ C[..., None])[..., 0]
    return (y if D is None else y + D * u), state


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
    u, delta, A, B, C, D, state = widen(u, delta, A, B, C, D, initial_state)
    if state is None:
        state = u.new_zeros(u.shape[0], *A.shape)
    rows = []
    for t in range(u.shape[1]):
        y, state = step(u[:, t], delta[:, t], A, B[:, t], C[:, t], D, state)
        rows.append(y)
    return torch.stack(rows, dim=1), state
