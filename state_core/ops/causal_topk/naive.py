"""Reference: all scores at once, a mask, a stable sort."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError


def causal_topk(
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    width: int,
    exclude: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    if not (torch.isfinite(u).all() and torch.isfinite(keys).all()):
        raise InputError("causal_topk: NaN or infinity in u or keys")
    lag = positions[:, :, None] - torch.arange(keys.shape[1], device=u.device)
    visible = lag >= exclude if causal else lag.abs() >= exclude
    visible &= positions[:, :, None] >= 0
    scores = pair_scores(u, keys).masked_fill(~visible, -torch.inf)
    # Reversed, so that a stable sort puts the most recent of equals first.
    best, order = scores.flip(-1).sort(dim=-1, descending=True, stable=True)
    indices = keys.shape[1] - 1 - order
    rank = torch.arange(keys.shape[1], device=u.device)
    taken = visible.gather(-1, indices) & (rank < ks[:, :, None])
    indices = indices.masked_fill(~taken, -1).to(torch.int32)
    best = best.masked_fill(~taken, -torch.inf)
    missing = max(width - keys.shape[1], 0)
    pad = torch.nn.functional.pad
    return (
        pad(indices, (0, missing), value=-1)[..., :width].contiguous(),
        pad(best, (0, missing), value=-torch.inf)[..., :width].contiguous(),
    )


def pair_scores(u: Tensor, keys: Tensor) -> Tensor:
    """Inner products [B, T, S] of rows [B, T, d] and keys [B, S, d], summed in feature order."""
    scores = u.new_zeros(u.shape[0], u.shape[1], keys.shape[1])
    for feature in range(u.shape[-1]):
        scores += u[:, :, None, feature] * keys[:, None, :, feature]
    return scores
