"""The reference: the diagonals of a dense matrix's powers. O(N²) memory, O(N³) a step."""

from __future__ import annotations

import torch
from torch import Tensor


def random_walk_pe(indptr: Tensor, indices: Tensor, steps: int, weights: Tensor) -> Tensor:
    """See `state_core.ops.random_walk_pe`."""
    nodes = len(indptr) - 1
    arcs = torch.repeat_interleave(torch.arange(nodes), indptr.diff()), indices.long()
    adjacency = weights.new_zeros(nodes, nodes).index_put(arcs, weights, accumulate=True)
    degree = adjacency.sum(1, keepdim=True)
    walk = adjacency / degree.where(degree > 0, 1)
    power, found = torch.eye(nodes, dtype=weights.dtype), []
    for _ in range(steps):
        power = power @ walk
        found.append(power.diagonal())
    return torch.stack(found, dim=1)
