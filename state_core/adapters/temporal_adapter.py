"""Temporal adapter: token → when it is due.

A learned factorised table by token id, plus what its past says: the gap since it last occurred and
its rate so far.

Where edges hang on it (`exact`), it is computed in float64 and rounded once, as the semantic state
is: a matrix product may round differently for another number of rows, and the graph must be the
same however a text is cut into chunks.

B batch, T tokens, P temporal width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.adapters.recency import Recency
from state_core.config import StateConfig


class TemporalAdapter(nn.Module):
    """ids [B,T] and recency → temporal state [B,T,P]."""

    def __init__(self, config: StateConfig, vocab_size: int, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.table = nn.Embedding(vocab_size, config.temporal_rank)
        self.spread = nn.Linear(config.temporal_rank, config.temporal_dim, bias=False)
        self.recent = nn.Linear(3, config.temporal_dim)
        nn.init.normal_(self.table.weight, std=0.5)

    def forward(self, ids: Tensor, recency: Recency) -> Tensor:
        seen = (recency.gap > 0).double()
        rate = recency.count.double() / (recency.position.double() + 1)
        gap = torch.log1p(recency.gap.double()) / 4
        features = torch.stack([seen, gap, torch.log1p(64 * rate)], dim=-1)
        if not self.exact:
            return self.spread(self.table(ids)) + self.recent(features.to(self.recent.weight.dtype))
        with torch.autocast(ids.device.type, enabled=False):
            spread = F.linear(self.table(ids).double(), self.spread.weight.double())
            bias = self.recent.bias.double()
            temporal = spread + F.linear(features, self.recent.weight.double(), bias)
        return temporal.to(self.recent.weight.dtype)
