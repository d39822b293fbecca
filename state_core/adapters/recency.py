"""When each token last occurred and how often so far: the past only.

B batch, T new tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RecencyState:
    """What the tokens so far leave behind: last position (−1 never) and count by id, [B,V]."""

    last: Tensor
    count: Tensor

    @classmethod
    def empty(cls, batch: int, vocab_size: int, device: torch.device) -> RecencyState:
        last = torch.full((batch, vocab_size), -1, dtype=torch.int64, device=device)
        return cls(last, torch.zeros_like(last))


@dataclass(frozen=True)
class Recency:
    """position [B,T]; gap [B,T], tokens since the same id last occurred (0 never); count [B,T] of
    its earlier occurrences."""

    position: Tensor
    gap: Tensor
    count: Tensor


def recency(ids: Tensor, positions: Tensor, past: RecencyState | None = None) -> Recency:
    """Recency of `ids` [B,T] at absolute `positions` [B,T], given the state of earlier tokens."""
    order = ids.argsort(dim=1, stable=True)
    ranked = ids.gather(1, order)
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    repeats = torch.zeros_like(ids, dtype=torch.bool)
    repeats[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    group_start = torch.where(repeats, 0, index).cummax(dim=1).values
    previous_ranked = torch.where(repeats, order.roll(1, dims=1), -1)

    previous = torch.empty_like(ids).scatter_(1, order, previous_ranked)
    count = torch.empty_like(ids).scatter_(1, order, index - group_start)
    last = torch.where(previous >= 0, positions.gather(1, previous.clamp(min=0)), -1)
    if past is not None:
        last = torch.where(previous >= 0, last, past.last.gather(1, ids))
        count = count + past.count.gather(1, ids)
    gap = torch.where(last >= 0, positions - last, 0)
    return Recency(positions, gap, count)


def advance(past: RecencyState, ids: Tensor, positions: Tensor) -> RecencyState:
    """The state after `ids` were read."""
    last = past.last.scatter_reduce(1, ids, positions, reduce="amax")
    return RecencyState(last, past.count.scatter_add(1, ids, torch.ones_like(ids)))
