"""How many shortest paths run through each node (Brandes, 2001).

    b[v] = sum over s, t other than v of  (shortest paths from s to t through v) / (all of them)

Exactly, from every source s; or from a few pivots, scaled up to all nodes (Brandes and Pich, 2007).

Shapes: N nodes, E arcs, P pivots.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.csr import check_graph, check_nodes

OP = Op(
    "betweenness",
    {
        "cpu": Backend("state_core.ops.betweenness.cpu", ("cpu",), ("numba",)),
        "naive": Backend("state_core.ops.betweenness.naive", ("cpu",)),
    },
)


def betweenness(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    pivots: int | torch.Tensor | None = None,
    normalized: bool = True,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Betweenness centrality by hops, along the arcs as they are stored.

    indptr:     [N + 1] int64 or int32. Row u's arcs are indices[indptr[u] : indptr[u + 1]].
    indices:    [E] int32 in 0 … N - 1. An undirected graph stores each edge in both directions. An
                arc that is stored twice is two paths; loops are on none.
    pivots:     the sources to sum over: None for all (exact), a number P of nodes spread evenly
                over the ids, or [P] ids of int32 or int64. Sums over pivots are scaled by N / P.
    normalized: divide by the (N - 1)(N - 2) ordered pairs that v could lie between, as networkx
                does for directed and undirected graphs. Without it every ordered pair (s, t)
                counts: networkx's figure for a directed graph, twice its figure for an undirected
                one, which counts a pair once.
    backend:    "auto", "cpu" or "naive".

    Returns [N] float64, the same bits for any number of threads. Zeros for N < 3.

    Raises InputError for a malformed graph, for pivots that are none or out of range, and if there
    are more shortest paths than float64 can count (above 1e308: a grid of 600 x 600 has as many);
    BackendError for tensors that are not on the CPU.
    """
    run = OP.select(backend, indices.device)
    nodes = check_graph("betweenness", indptr, indices)
    sources = _sources(pivots, nodes)
    if nodes < 3:
        return torch.zeros(nodes, dtype=torch.float64)
    scores: torch.Tensor = run(indptr.long(), indices, sources)
    pairs = (nodes - 1) * (nodes - 2) if normalized else 1
    return scores * (nodes / (len(sources) * pairs))


def _sources(pivots: int | torch.Tensor | None, nodes: int) -> torch.Tensor:
    if pivots is None:
        return torch.arange(nodes)
    if isinstance(pivots, torch.Tensor):
        if pivots.ndim != 1 or pivots.dtype not in (torch.int32, torch.int64) or not len(pivots):
            got = f"{list(pivots.shape)} {pivots.dtype}"
            raise InputError(f"betweenness expects pivots [P] int32 or int64, P > 0, got {got}")
        check_nodes("betweenness", "pivots", pivots, nodes)
        return pivots.long()
    if not 1 <= pivots <= nodes:
        raise InputError(f"betweenness expects 1 to {nodes} pivots, as many as nodes: got {pivots}")
    return torch.arange(pivots) * nodes // pivots
