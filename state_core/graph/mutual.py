"""Mutual k-NN: keep an edge only if both ends choose each other, which thins out hubs.

Bidirectional: both lists contain each other. Causal: i→j stays iff j is in i's list and i is among
j's K best over the tokens up to i; a token that many choose raises its own bar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core import ops
from state_core.config import GraphConfig
from state_core.graph.graph_stream import GraphStream


def keep_mutual(
    indices: Tensor,
    scores: Tensor,
    k: int | Tensor,
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    config: GraphConfig,
    stream: GraphStream | None,
) -> Tensor:
    """Lists `indices` [B,T,K] (−1 pads) with the edges that are not mutual set to −1.

    scores [B,T,K]: the K best similarities of each row; k: how many of them a token counts as its
    own, one number or [B,T]; u [B,T,d] and keys [B,S,d]: features of the new tokens and of all.
    """
    if not config.causal:
        return torch.where(_listed_both_ways(indices), indices, -1)
    bars = None if stream is None else stream.bars.write(scores, positions)
    keep = ops.mutual_filter(
        indices, scores, u, k, config.window + 1, keys=keys, positions=positions, bars=bars
    )
    return torch.where(keep, indices, -1)


def _listed_both_ways(indices: Tensor) -> Tensor:
    """Whether i is in the list of j, for every j in the list of i: [B,T,K] bool."""
    batch, length, k = indices.shape
    theirs = indices.gather(1, indices.clamp(min=0).long().flatten(1)[..., None].expand(-1, -1, k))
    here = torch.arange(length, device=indices.device, dtype=indices.dtype)[:, None, None]
    return (theirs.view(batch, length, k, k) == here).any(-1) & (indices >= 0)
