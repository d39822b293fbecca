"""TEMPORAL gate: a semantic edge must also make sense in time.

    gate(i, j) = σ(t_i · W · t_j + b)
    accept     = (sim > τ_mu and gate > τ_temp) or sim > τ_high

An accepted edge carries log gate as a bias of its attention, which trains the gate; a refused one
is no edge, and its gate learns by a straight-through estimate (`layers.straight_through`).

The decision compares scores, not gates: t_i·W is computed in float64 and rounded once, the product
with t_j is the same sum wherever a token stands in a chunk, and adding b rounds once. So a text is
gated alike however it is cut, to the last edge.

B batch, T new tokens, S tokens known, E edges of a row, P temporal width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core import ops
from state_core.config import GraphConfig


class TemporalGate(nn.Module):
    """Which semantic edges are kept, and how far each is trusted."""

    def __init__(self, config: GraphConfig, width: int) -> None:
        super().__init__()
        self.config = config
        # Temporal states of a fresh model then score with a spread of about 1: enough for gates
        # on both sides of any τ_temp that is worth having.
        self.weight = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(()))

    def queries(self, temporal: Tensor) -> Tensor:
        """t·W of states [B,T,P]."""
        return (temporal.double() @ self.weight.double()).to(temporal.dtype)

    def log_gates(self, queries: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> Tensor:
        """log gate [B,T,E] of edges to tokens with temporal states `keys` [B,S,P]; trains."""
        return F.logsigmoid(self._scores(queries, neighbors, counts, keys))

    @torch.no_grad()
    def accept(self, queries: Tensor, chosen: Tensor, similarity: Tensor, keys: Tensor) -> Tensor:
        """Which of the edges `chosen` [B,T,K] (−1 none), so similar [B,T,K], are kept: bool."""
        cfg, everyone = self.config, chosen.new_full(chosen.shape[:2], chosen.shape[2])
        scores = self._scores(queries, chosen.clamp(min=0), everyone, keys)
        due = scores > _logit(cfg.tau_temp)
        return (similarity > cfg.tau_mu) & due | (similarity > cfg.tau_high)

    def _scores(self, queries: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> Tensor:
        return ops.edge_scores(queries, neighbors, counts, keys=keys) + self.bias


def _logit(p: float) -> float:
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return math.log(p / (1 - p))
