"""Adaptive K: ambiguous tokens get more semantic edges.

K_i = clamp(round(k_base + α·z_i), k_min, k_max), z_i the token's ambiguity standardised with
running statistics from training: statistics of the sequence itself would look ahead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from state_core.config import GraphConfig

# Similarities differ by a few hundredths; this temperature spreads their softmax.
SCORE_TEMPERATURE = 0.1
MOMENTUM = 0.01


def score_entropy(semantic: Tensor, scores: Tensor) -> Tensor:
    """Entropy of the row's own best similarities, in [0, 1]: many equal candidates are ambiguous.

    scores [B,T,K] are best first, −inf where there is none; rows with fewer than two give NaN.
    """
    p = (scores.double() / SCORE_TEMPERATURE).softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    known = scores.isfinite().sum(-1)
    return torch.where(known > 1, entropy / math.log(max(scores.shape[-1], 2)), torch.nan)


def block_norm_entropy(semantic: Tensor, scores: Tensor) -> Tensor:
    """Entropy of the softmax of the blocks' norms, in [0, 1] (seed 2.2). semantic [B,T,N,4]."""
    norms = semantic.double().norm(dim=-1)
    return torch.special.entr(norms.softmax(-1)).sum(-1) / math.log(norms.shape[-1])


AMBIGUITY = {"scores": score_entropy, "block_norms": block_norm_entropy}


class AdaptiveK(nn.Module):
    """How many of its k_max best candidates each token keeps."""

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("var", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, semantic: Tensor, scores: Tensor) -> Tensor:
        """K [B,T] for semantic [B,T,N,4] and scores [B,T,k_max].

        Training updates the statistics.
        """
        cfg = self.config
        ambiguity = AMBIGUITY[cfg.ambiguity](semantic, scores)
        # The row is judged by earlier batches only, then the batch enters the statistics.
        z = (ambiguity - self.mean.double()) / self.var.double().clamp(min=1e-12).sqrt()
        z = torch.where((self.batches > 0) & z.isfinite(), z, 0.0)
        if self.training:
            self._observe(ambiguity)
        return (cfg.k_base + cfg.k_alpha * z).round().clamp(cfg.k_min, cfg.k_max).long()

    @torch.no_grad()
    def _observe(self, ambiguity: Tensor) -> None:
        values = ambiguity[ambiguity.isfinite()].to(self.mean.dtype)
        if values.numel() < 2:
            return
        weight = max(1.0 / (int(self.batches) + 1), MOMENTUM)
        self.mean.lerp_(values.mean(), weight)
        self.var.lerp_(values.var(), weight)
        self.batches += 1
