"""Who looks at a token: the rows of a graph turned around.

A row lists the tokens that token i looks at. The gradient of a key needs the rows that look at it.
With them in hand every key sums its own gradient: no atomics, one fixed order, any number of cores.
On the CPU a counting sort in Numba, elsewhere torch's own stable sort.

Shapes: B batch, T rows, S tokens looked at, E most edges of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

from state_core.errors import InputError
from state_core.ops.graph_memo import GraphMemo, check_edges, edges_present
from state_core.ops.numba_threads import match_torch_threads


class ReversedEdges(NamedTuple):
    """Edges grouped by the token they point at.

    starts: [B, S + 1] int32. Token j's edges are `edges[b, starts[b, j] : starts[b, j + 1]]`.
    edges:  [B, T * E] int32. An edge is its place in its batch row's table, i * E + e; ascending
            within a group. What lies behind starts[b, S] is not set.
    """

    starts: torch.Tensor
    edges: torch.Tensor


def reverse_edges(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> ReversedEdges:
    """The edges of a graph by the token they point at, in O(edges + tokens).

    All layers of a model read the same graph, so the last answer for a neighbours tensor is kept
    for as long as that tensor lives, and is dropped when it or `counts` is written to.

    neighbors: [B, T, E] int32 on the CPU; counts: [B, T] int32, the valid entries of each row;
    sources: S, the number of tokens that can be pointed at.
    Raises InputError for an entry outside 0 … S - 1, and for tables of 2^31 entries and more.
    """
    return _counted(neighbors, counts, sources)


def sorted_reverse_edges(
    neighbors: torch.Tensor, counts: torch.Tensor, sources: int
) -> ReversedEdges:
    """`reverse_edges` for tensors on any device, in O(edges log edges) and plain torch."""
    return _sorted(neighbors, counts, sources)


def _check_size(neighbors: torch.Tensor) -> None:
    _, rows, width = neighbors.shape
    if rows * width > np.iinfo(np.int32).max:
        raise InputError(f"a graph of {rows} rows of {width} edges is too large for int32 edge ids")


def _sort(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> ReversedEdges:
    _check_size(neighbors)
    check_edges(neighbors, counts, sources)
    present = edges_present(neighbors, counts)
    target, edges = neighbors.where(present, sources).flatten(1).sort(dim=1, stable=True)
    borders = torch.arange(sources + 1, dtype=target.dtype, device=target.device)
    starts = torch.searchsorted(target, borders.expand(len(target), -1).contiguous())
    return ReversedEdges(starts.to(torch.int32), edges.to(torch.int32))


def _count(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> ReversedEdges:
    _check_size(neighbors)
    batch, rows, width = neighbors.shape
    starts = torch.zeros(batch, sources + 1, dtype=torch.int32)
    edges = torch.empty(batch, rows * width, dtype=torch.int32)
    match_torch_threads()
    valid = _counting_sort(
        neighbors.contiguous().numpy(), counts.contiguous().numpy(), starts.numpy(), edges.numpy()
    )
    if not valid:
        raise InputError(f"counts must be within 0 … {width}, neighbors within 0 … {sources - 1}")
    return ReversedEdges(starts, edges)


_counted, _sorted = GraphMemo(_count), GraphMemo(_sort)


@njit(parallel=True, cache=True)
def _counting_sort(neighbors, counts, starts, edges):
    batch, rows, width = neighbors.shape
    sources = starts.shape[1] - 1
    valid = np.ones(batch, np.bool_)
    for b in prange(batch):
        for i in range(rows):
            valid[b] &= 0 <= counts[b, i] <= width
            for e in range(min(counts[b, i], width)):
                j = neighbors[b, i, e]
                if 0 <= j < sources:
                    starts[b, j + 1] += 1
                else:
                    valid[b] = False
        if valid[b]:
            for j in range(sources):
                starts[b, j + 1] += starts[b, j]
            next_free = starts[b, :-1].copy()
            for i in range(rows):
                for e in range(counts[b, i]):
                    j = neighbors[b, i, e]
                    edges[b, next_free[j]] = i * width + e
                    next_free[j] += 1
    return valid.all()
