"""The arcs of a graph turned around: for every node, where its arcs come from.

An undirected graph, each edge stored in both directions, is its own answer, and is recognised in
one pass: a graph is symmetric if rᵀAs = sᵀAr for random vectors r and s (Freivalds' test). Sums
are modulo 2^64 and r, s are fixed hashes of node ids, so the answer is deterministic; a graph that
is not symmetric passes with a probability of some 2^-58, once in 10^17 graphs.

Shapes: N nodes, E arcs.
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange

Array = npt.NDArray[Any]

TASKS = 64  # of the test: as many as threads could want
ONE = np.uint64(1)
NONE = np.empty(0, np.uint64)


def turned_arcs(
    indptr: Array, indices: Array, weights: Array | None = None
) -> tuple[Array, Array, Array | None]:
    """(indptr, indices, weights) of the arcs that enter each node, ascending by where they start.

    The graph itself comes back if it is symmetric, weights included. Symmetric or not, an arc that
    is stored twice counts twice.
    """
    bits = NONE if weights is None else weights.view(f"u{weights.itemsize}")
    if _is_symmetric(indptr, indices, bits):
        return indptr, indices, weights
    starts, sources, order = _counting_sort(indptr, indices)
    return starts, sources, None if weights is None else weights[order]


@njit(inline="always")
def _hash(node, salt):
    """A 64-bit number that looks random: the finaliser of MurmurHash3."""
    x = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + salt
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@njit(parallel=True, cache=True)
def _is_symmetric(indptr, indices, weight_bits):
    nodes = np.uint64(indptr.size - 1)
    first, second = np.empty(nodes, np.uint64), np.empty(nodes, np.uint64)
    for u in prange(nodes):
        first[u], second[u] = _hash(u, np.uint64(1)), _hash(u, np.uint64(2))
    share = (nodes + np.uint64(TASKS) - ONE) // np.uint64(TASKS)
    difference = np.zeros(TASKS, np.uint64)
    for task in prange(TASKS):
        total = np.uint64(0)
        start = np.uint64(task) * share
        for u in range(start, min(start + share, nodes)):
            r = s = np.uint64(0)
            for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
                v = np.uint32(indices[e])
                weight = _hash(weight_bits[e], np.uint64(3)) if weight_bits.size else ONE
                r += weight * first[v]
                s += weight * second[v]
            total += first[u] * s - second[u] * r
        difference[task] = total
    return difference.sum() == np.uint64(0)


@njit(cache=True)
def _counting_sort(indptr, indices):
    nodes = indptr.size - 1
    starts = np.zeros(nodes + 1, np.int64)
    for v in indices:
        starts[v + 1] += 1
    for v in range(nodes):
        starts[v + 1] += starts[v]
    place = starts[:-1].copy()
    sources, order = np.empty(indices.size, np.int32), np.empty(indices.size, np.int64)
    for u in range(nodes):
        for e in range(indptr[u], indptr[u + 1]):
            at = place[indices[e]]
            place[indices[e]] = at + 1
            sources[at], order[at] = u, e
    return starts, sources, order
