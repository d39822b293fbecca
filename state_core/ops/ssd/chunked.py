"""The matrix form in plain PyTorch, differentiable by autograd, for every device.

Shapes: B batch, c chunks, Q tokens of a chunk, H heads, P head dim, N state (groups are expanded
to heads). Every decay is the exp of a sum of non-positive terms, never a quotient of two decays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core.ops.widen import widen


def _chunks(tensor: Tensor, chunk: int) -> Tensor:
    """[B,T,H,...] → [B,c,H,Q,...], with zeros after the end."""
    pad = -tensor.shape[1] % chunk
    tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, pad))
    return tensor.unflatten(1, (-1, chunk)).transpose(2, 3)


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
    x, dt, A, B, C, D, initial_state = widen(x, dt, A, B, C, D, initial_state)
    length, heads = x.shape[1:3]
    chunk = min(chunk_size, length)
    per_group = heads // B.shape[2]
    key = _chunks(B.repeat_interleave(per_group, dim=2), chunk)
    query = _chunks(C.repeat_interleave(per_group, dim=2), chunk)
    step = _chunks(dt, chunk)
    value = _chunks(x, chunk) * step[..., None]
    log_decay = (step * A[:, None]).cumsum(-1)

    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    between = (log_decay[..., :, None] - log_decay[..., None, :]).masked_fill(later, -torch.inf)
    y = (query @ key.mT * between.exp()) @ value

    to_end = (log_decay[..., -1:] - log_decay).exp()
    own = (value * to_end[..., None]).mT @ key
    entering, final = _scan(own, log_decay[..., -1], initial_state)
    y = y + (query * log_decay.exp()[..., None]) @ entering.mT
    y = y.transpose(2, 3).flatten(1, 2)[:, :length]
    return (y if D is None else y + D[:, None] * x), final


def _scan(own: Tensor, log_total: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states [B,c,H,P,N] that enter the chunks, and the one that leaves the last."""
    state = torch.zeros_like(own[:, 0]) if initial is None else initial
    entering = []
    total = log_total.exp()[..., None, None]
    for c in range(own.shape[1]):
        entering.append(state)
        state = total[:, c] * state + own[:, c]
    return torch.stack(entering, dim=1), state
