"""How far every node of a graph is from a few landmarks.

    d[n, l] = the least number of arcs, or the least sum of weights, on a path from landmark l to n

On an undirected graph they bound every distance (Potamias et al., CIKM 2009):

    max_l |d[i, l] - d[j, l]|  <=  d(i, j)  <=  min_l d[i, l] + d[j, l]

Shapes: N nodes, E arcs, L landmarks.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.csr import check_graph, check_nodes

OP = Op(
    "landmark_distances",
    {
        "cpu": Backend("state_core.ops.landmark_distances.cpu", ("cpu",), ("numba",)),
        "naive": Backend("state_core.ops.landmark_distances.naive", ("cpu",)),
    },
)


def landmark_distances(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    landmarks: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Distances from every landmark to every node, along the arcs as they are stored.

    indptr:    [N + 1] int64 or int32. Row u's arcs are indices[indptr[u] : indptr[u + 1]].
    indices:   [E] int32 in 0 … N - 1: the node at the other end. An undirected graph stores each
               edge in both directions, and distances then are the same there and back. In a
               directed graph d[n, l] follows arcs from l to n; for the way from n to l hand in
               the graph turned around. In a token graph, whose rows say what a token looks at, an
               arc leads from the reader to what is read.
    landmarks: [L] int32 or int64 in 0 … N - 1, in any order; one may occur twice.
    weights:   [E] float32 or float64, finite and at least 0: the length of each arc, summed in
               this dtype from the landmark on. Not differentiated.
    backend:   "auto", "cpu" or "naive".

    Returns [N, L]: int32 hops, -1 where a landmark does not reach; with weights their dtype, and
    infinity there. Exact, and the same bits for any number of threads.

    Raises InputError for a malformed graph, landmarks out of range and negative, infinite or NaN
    weights; BackendError for tensors that are not on the CPU.
    """
    run = OP.select(backend, indices.device)
    nodes = check_graph("landmark_distances", indptr, indices, weights)
    if landmarks.ndim != 1 or landmarks.dtype not in (torch.int32, torch.int64):
        got = f"{list(landmarks.shape)} {landmarks.dtype}"
        raise InputError(f"landmark_distances expects landmarks [L] int32 or int64, got {got}")
    check_nodes("landmark_distances", "landmarks", landmarks, nodes)
    found: torch.Tensor = run(indptr.long(), indices, landmarks.long(), weights)
    return found
