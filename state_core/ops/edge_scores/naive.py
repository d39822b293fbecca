"""Reference: gather the keys of all edges, multiply, sum."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError


def edge_scores(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> Tensor:
    batch, rows, width = neighbors.shape
    real = torch.arange(width, device=u.device) < counts[..., None]
    inside = (neighbors >= 0) & (neighbors < keys.shape[1])
    if (real & ~inside).any() or (counts < 0).any() or (counts > width).any():
        raise invalid(width, keys.shape[1])
    target = neighbors.where(real, 0).long()
    if target.numel() == 0 or keys.shape[1] == 0:
        return (u.sum() + keys.sum()) * 0 + u.new_zeros(batch, rows, width)
    at = target.view(batch, rows * width, 1).expand(-1, -1, keys.shape[2])
    chosen = keys.gather(1, at).view(batch, rows, width, -1)
    return (u[:, :, None, :] * chosen).sum(-1).where(real, 0.0)


def invalid(width: int, keys: int) -> InputError:
    """What to raise for a table of edges that points out of its keys."""
    return InputError(
        f"edge_scores: counts must lie in 0 .. {width} and valid neighbors in 0 .. {keys - 1}"
    )
