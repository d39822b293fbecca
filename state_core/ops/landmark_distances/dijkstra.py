"""Weighted distances: Dijkstra's algorithm from each landmark, a landmark a task.

The heap is 4-ary, as flat as a cache line of keys, and knows where each node sits, so that a node
is in it once: O(N) memory a thread. Rounding grows with the length of a path and never shrinks it,
so a distance is the least over all paths of their weights summed from the landmark on, in that
order: one number, whatever the schedule.

N nodes, L landmarks; out [N, L].
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit, prange

FANOUT = 4
ONE = np.uint64(1)


@njit(cache=True, parallel=True)
def distances(indptr, indices, weights, landmarks, out, threads):
    """Fills all of `out`; infinity where a landmark does not reach."""
    nodes = indptr.size - 1
    for thread in prange(threads):
        distance = np.empty(nodes, weights.dtype)
        keys = np.empty(nodes, weights.dtype)
        heap, place = np.empty(nodes, np.int32), np.empty(nodes, np.int32)
        for lane in range(thread, landmarks.size, threads):
            _from_one(indptr, indices, weights, landmarks[lane], distance, keys, heap, place)
            for node in range(nodes):
                out[node, lane] = distance[node]


@njit(cache=True)
def _from_one(indptr, indices, weights, source, distance, keys, heap, place):
    distance[:] = np.inf
    place[:] = -1  # where a node is in the heap; it never comes back once it has left
    distance[source], keys[0], heap[0] = 0, 0, source
    count = 1
    while count:
        u, here = np.uint32(heap[0]), keys[0]
        count -= 1
        if count:
            _sift_down(keys[count], heap[count], count, keys, heap, place)
        for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
            v, there = np.uint32(indices[e]), here + weights[e]
            if there < distance[v]:
                if distance[v] == np.inf:
                    place[v] = count
                    count += 1
                distance[v] = there
                _sift_up(place[v], there, v, keys, heap, place)


@njit(cache=True)
def _sift_up(at, key, node, keys, heap, place):
    """Put a node in, at `at` or as far above it as its key allows."""
    while at > 0:
        parent = (at - 1) // FANOUT
        if keys[parent] <= key:
            break
        keys[at], heap[at] = keys[parent], heap[parent]
        place[heap[at]] = at
        at = parent
    keys[at], heap[at], place[node] = key, node, at


@njit(cache=True)
def _sift_down(key, node, count, keys, heap, place):
    """Put a node in at the root, or as far below it as its key demands."""
    at = 0
    while True:
        first = at * FANOUT + 1
        if first >= count:
            break
        least = first
        for child in range(first + 1, min(first + FANOUT, count)):
            if keys[child] < keys[least]:
                least = child
        if keys[least] >= key:
            break
        keys[at], heap[at] = keys[least], heap[least]
        place[heap[at]] = at
        at = least
    keys[at], heap[at], place[node] = key, node, at
