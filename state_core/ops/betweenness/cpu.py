"""Betweenness on the CPU: a Numba kernel as a torch custom op."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.betweenness import kernels
from state_core.ops.lanes import WIDTH
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.turned_arcs import turned_arcs

# The sources are dealt out in shares, and what these give is added up in their order. How many
# there are depends on the graph alone, never on threads; their sums take 256 MiB at most.
SHARES = 64
SUMS = 1 << 25


@torch.library.custom_op("state_core::betweenness", mutates_args=(), device_types="cpu")
def betweenness(indptr: Tensor, indices: Tensor, sources: Tensor) -> Tensor:
    """The sum of each node's dependencies over the sources."""
    nodes = len(indptr) - 1
    batches = -(-len(sources) // WIDTH)
    shares = max(1, min(SHARES, batches, SUMS // nodes))
    threads = min(torch.get_num_threads(), shares)
    match_torch_threads(threads)
    graph = indptr.contiguous().numpy(), indices.contiguous().numpy()
    into = turned_arcs(*graph)[:2]
    scores = torch.zeros(shares, nodes, dtype=torch.float64)
    if not kernels.betweenness(
        *graph, *into, sources.contiguous().numpy(), scores.numpy(), threads
    ):
        raise InputError("betweenness: more shortest paths than float64 can count")
    return scores.sum(0)


@betweenness.register_fake
def _(indptr: Tensor, indices: Tensor, sources: Tensor) -> Tensor:
    return indices.new_empty(indptr.shape[0] - 1, dtype=torch.float64)
