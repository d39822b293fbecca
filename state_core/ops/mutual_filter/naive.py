"""Reference: one token after the other, each held against the bars of all before it."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.causal_topk.naive import pair_scores


def mutual_filter(
    indices: Tensor,
    scores: Tensor,
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    bars: Tensor,
    exclude: int,
) -> Tensor:
    keep = torch.zeros_like(indices, dtype=torch.bool)
    rank = torch.arange(indices.shape[-1], device=u.device)
    if rank.numel() == 0:
        return keep
    for b, t in torch.cartesian_prod(*(torch.arange(n) for n in u.shape[:2])).tolist():
        position = int(positions[b, t])
        if position < 0:
            continue
        bars[b, position] = scores[b, t].masked_fill(rank >= ks[b, t], torch.inf).sort().values
        past = bars[b, : max(position - exclude + 1, 0)]
        similarity = pair_scores(u[b : b + 1, t : t + 1], keys[b : b + 1, : past.shape[0]])[0, 0]
        listed = indices[b, t] >= 0
        chosen = indices[b, t, listed].long()
        keep[b, t, listed] = similarity[chosen] >= past[chosen, 0]
        # The newcomer joins every token's best scores, and the worst of them leaves.
        past.copy_(torch.cat([past, similarity[:, None]], dim=1).sort(dim=1).values[:, 1:])
    return keep
