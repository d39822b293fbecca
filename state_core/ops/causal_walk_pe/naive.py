"""The reference: for every token the dense matrix of its prefix, and its powers."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.graph_memo import check_edges, edges_present


def causal_walk_pe(neighbors: Tensor, counts: Tensor, positions: Tensor, steps: int) -> Tensor:
    """See `state_core.ops.causal_walk_pe`."""
    check_edges(neighbors, counts, neighbors.shape[1])
    found = torch.zeros(*positions.shape, steps, dtype=torch.float64)
    present = edges_present(neighbors, counts)
    for b in range(len(positions)):
        reader, e = present[b].nonzero(as_tuple=True)
        read = neighbors[b, reader, e].long()
        for t, i in enumerate(positions[b].tolist()):
            adjacency = torch.zeros(i + 1, i + 1, dtype=torch.float64)
            adjacency[reader[reader <= i], read[reader <= i]] = 1
            adjacency = adjacency + adjacency.T
            degree = adjacency.sum(1, keepdim=True)
            walk = adjacency / degree.where(degree > 0, 1)
            row = torch.zeros(i + 1, dtype=torch.float64)
            row[i] = 1
            for k in range(steps):
                row = row @ walk
                found[b, t, k] = row[i]
    return found
