"""The reference: relax all arcs until nothing changes. O(E · L) a round, as many rounds as hops."""

from __future__ import annotations

import torch
from torch import Tensor


def landmark_distances(
    indptr: Tensor, indices: Tensor, landmarks: Tensor, weights: Tensor | None
) -> Tensor:
    """See `state_core.ops.landmark_distances`."""
    nodes, lanes = len(indptr) - 1, len(landmarks)
    tails = torch.repeat_interleave(torch.arange(nodes), indptr.diff())
    heads = indices.long()[:, None].expand(-1, lanes)
    lengths = torch.ones(len(indices)).double() if weights is None else weights.detach()
    distance = torch.full((nodes, lanes), torch.inf, dtype=lengths.dtype)
    distance[landmarks, torch.arange(lanes)] = 0
    while True:
        relaxed = distance.scatter_reduce(0, heads, distance[tails] + lengths[:, None], "amin")
        if torch.equal(relaxed, distance):
            break
        distance = relaxed
    if weights is not None:
        return distance
    return distance.where(distance.isfinite(), -1).int()
