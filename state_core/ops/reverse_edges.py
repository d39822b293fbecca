"""Who looks at a token: the rows of a graph turned around, by a counting sort.

A row lists the tokens that token i looks at. The gradient of a key needs the rows that look at it.
With them in hand every key sums its own gradient: no atomics, one fixed order, any number of cores.

Shapes: B batch, T rows, S tokens looked at, E most edges of a row.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch.utils.weak import WeakTensorKeyDictionary

from state_core.errors import InputError
from state_core.ops.numba_threads import match_torch_threads


class ReversedEdges(NamedTuple):
    """Edges grouped by the token they point at.

    starts: [B, S + 1] int32. Token j's edges are `edges[b, starts[b, j] : starts[b, j + 1]]`.
    edges:  [B, T * E] int32. An edge is its place in its batch row's table, i * E + e; ascending
            within a group. What lies behind starts[b, S] is not set.
    """

    starts: torch.Tensor
    edges: torch.Tensor


class _Memo(NamedTuple):
    version: tuple[int, int]
    counts: weakref.ref[torch.Tensor]
    sources: int
    reversed: ReversedEdges


_memos: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def reverse_edges(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> ReversedEdges:
    """The edges of a graph by the token they point at, in O(edges + tokens).

    All layers of a model read the same graph, so the last answer for a neighbours tensor is kept
    for as long as that tensor lives, and is dropped when it or `counts` is written to.

    neighbors: [B, T, E] int32 on the CPU; counts: [B, T] int32, the valid entries of each row;
    sources: S, the number of tokens that can be pointed at.
    Raises InputError for an entry outside 0 … S - 1, and for tables of 2^31 entries and more.
    """
    if neighbors.is_inference() or counts.is_inference():  # they have no version to go by
        return _build(neighbors, counts, sources)
    version = (neighbors._version, counts._version)
    memo: _Memo | None = _memos.get(neighbors)
    if memo and memo.version == version and memo.sources == sources and memo.counts() is counts:
        return memo.reversed
    result = _build(neighbors, counts, sources)
    _memos[neighbors] = _Memo(version, weakref.ref(counts), sources, result)
    return result


def _build(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> ReversedEdges:
    batch, rows, width = neighbors.shape
    if rows * width > np.iinfo(np.int32).max:
        raise InputError(f"a graph of {rows} rows of {width} edges is too large for int32 edge ids")
    starts = torch.zeros(batch, sources + 1, dtype=torch.int32)
    edges = torch.empty(batch, rows * width, dtype=torch.int32)
    match_torch_threads()
    valid = _counting_sort(
        neighbors.contiguous().numpy(), counts.contiguous().numpy(), starts.numpy(), edges.numpy()
    )
    if not valid:
        raise InputError(f"counts must be within 0 … {width}, neighbors within 0 … {sources - 1}")
    return ReversedEdges(starts, edges)


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
