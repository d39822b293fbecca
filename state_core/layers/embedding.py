"""Factorised embedding V×r×D with the output head tied through the same factors.

B batch, T tokens, V vocabulary, r rank, D model width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FactorisedEmbedding(nn.Module):
    """ids → codes [B,T,r] → vectors [B,T,D]; and back, from a hidden state to logits."""

    def __init__(self, vocab_size: int, rank: int, d_model: int) -> None:
        super().__init__()
        self.codes = nn.Embedding(vocab_size, rank)
        self.expand = nn.Linear(rank, d_model, bias=False)
        nn.init.normal_(self.codes.weight, std=rank**-0.5)
        nn.init.normal_(self.expand.weight, std=d_model**-0.5)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B,T,r] and embeddings [B,T,D]."""
        codes = self.codes(ids)
        return codes, self.expand(codes)

    def contract(self, hidden: Tensor) -> Tensor:
        """Hidden states [...,D] → [...,r], whose product with the codes is the logits."""
        return F.linear(hidden, self.expand.weight.T)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [...,D] → [...,V]."""
        return F.linear(self.contract(hidden), self.codes.weight)
