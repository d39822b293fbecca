"""Landmark distances on the CPU: Numba kernels as a torch custom op."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.landmark_distances import dijkstra, search
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.turned_arcs import turned_arcs

SMALL = 1 << 14  # nodes and arcs that are not worth a second thread
WIDE = 8  # a frontier is wide if it has more than an eighth of nodes and arcs


@torch.library.custom_op("state_core::landmark_distances", mutates_args=(), device_types="cpu")
def landmark_distances(
    indptr: Tensor, indices: Tensor, landmarks: Tensor, weights: Tensor | None
) -> Tensor:
    """See `state_core.ops.landmark_distances`."""
    nodes, size = len(indptr) - 1, len(indptr) + len(indices)
    threads = torch.get_num_threads() if weights is not None or size > SMALL else 1
    match_torch_threads(threads)
    graph = indptr.contiguous().numpy(), indices.contiguous().numpy()
    sources = landmarks.contiguous().numpy()
    if weights is not None:
        found = weights.new_empty(nodes, len(landmarks))
        lengths = weights.detach().contiguous().numpy()
        dijkstra.distances(*graph, lengths, sources, found.numpy(), threads)
        return found
    hops = torch.full((nodes, len(landmarks)), -1, dtype=torch.int32)
    into = turned_arcs(*graph)[:2]
    search.distances(*graph, *into, sources, hops.numpy(), size // WIDE, threads)
    return hops


@landmark_distances.register_fake
def _(indptr: Tensor, indices: Tensor, landmarks: Tensor, weights: Tensor | None) -> Tensor:
    shape = (indptr.shape[0] - 1, landmarks.shape[0])
    dtype = torch.int32 if weights is None else weights.dtype
    return indices.new_empty(shape, dtype=dtype)
