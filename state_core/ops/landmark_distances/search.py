"""Breadth-first search from 64 landmarks at once, one bit each.

`now[u]` holds the landmarks that reached u in the last level, `seen[u]` all that have. A level is
one of three kinds, by the arcs that leave its frontier:

narrow  pushed along those arcs by one thread, from a queue: O(frontier) and no parallel region
wide    every node pulls from its in-arcs, until its bits are complete: all threads, no atomics
thin    narrow levels without end (a path): from here on a landmark at a time, in a row of its own

Distances are unique, so no schedule can change a bit. N nodes, L landmarks; out [N, L].
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.landmark_distances.masked_store import store_where
from state_core.ops.score_tile import lowest_bit

LANES = 64
LINE = 16  # distances of a cache line of `out`: landmarks that are turned into rows at a time
BLOCK = 512  # nodes that a thread pulls for at a time
ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, parallel=True)
def distances(indptr, indices, in_ptr, in_indices, landmarks, out, wide, threads):
    """Fills `out` with hops; what is not reached keeps its value.

    wide: a frontier is wide if its nodes and their arcs are more than this.
    """
    nodes = np.int64(indptr.size - 1)
    size = nodes + indices.size
    now, soon = np.zeros(nodes, np.uint64), np.zeros(nodes, np.uint64)
    seen = np.empty(nodes, np.uint64)
    queue, spare = np.empty(nodes, np.int32), np.empty(nodes, np.int32)
    found = np.empty((threads, 2), np.int64)
    for base in range(0, landmarks.size, LANES):
        group = landmarks[base : base + LANES]
        count = _start(group, base, now, soon, seen, queue, out)
        level, spent = 0, 0
        while count:
            level, count, arcs, spent, queue, spare, now, soon = _push(
                indptr, indices, now, soon, seen, queue, spare, count, level, wide, size, spent,
                base, out,
            )  # fmt: skip
            if count and count + arcs <= wide:
                _part(indptr, indices, now, queue[:count], base, group.size, out, threads)
                break
            while count + arcs > wide:
                level += 1
                for thread in prange(threads):
                    found[thread] = _pull(
                        indptr, in_ptr, in_indices, now, soon, seen, level, base, out,
                        thread, threads,
                    )  # fmt: skip
                now, soon = soon, now
                count, arcs = found[:, 0].sum(), found[:, 1].sum()
            count = _enqueue(now, soon, queue)


@njit(cache=True)
def _start(group, base, now, soon, seen, queue, out):
    """Put each landmark at distance 0 of itself; returns how many nodes they are."""
    full = ALL >> np.uint64(LANES - group.size)
    now[:], soon[:], seen[:] = ZERO, ZERO, ~full
    count = 0
    for lane in range(group.size):
        node = group[lane]
        if now[node] == ZERO:
            queue[count] = node
            count += 1
        now[node] |= ONE << np.uint64(lane)
        seen[node] |= ONE << np.uint64(lane)
        out[node, base + lane] = 0
    return count


@njit(cache=True)
def _push(
    indptr, indices, now, soon, seen, queue, spare, count, level, wide, budget, spent, base, out
):  # fmt: skip
    """Levels from a queue, until none is left, one is wide, or the budget of arcs is spent."""
    arcs = 0
    for i in range(count):
        u = np.uint32(queue[i])
        arcs += indptr[u + ONE] - indptr[u]
    while count and count + arcs <= wide and spent <= budget:
        spent += arcs + count
        level += 1
        reached, arcs = 0, 0
        for i in range(count):
            u = np.uint32(queue[i])
            bits, now[u] = now[u], ZERO
            for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
                v = np.uint32(indices[e])
                new = bits & ~seen[v]
                if new == ZERO:
                    continue
                if soon[v] == ZERO:
                    spare[reached] = v
                    reached += 1
                    arcs += indptr[v + ONE] - indptr[v]
                soon[v] |= new
                seen[v] |= new
                while new:
                    out[v, base + lowest_bit(new)] = level
                    new &= new - ONE
        queue, spare, now, soon, count = spare, queue, soon, now, reached
    return level, count, arcs, spent, queue, spare, now, soon


@njit(cache=True)
def _pull(indptr, in_ptr, in_indices, now, soon, seen, level, base, out, thread, threads):
    """A level, for every threads-th block; returns how many nodes it reached, and their arcs."""
    nodes = np.uint64(seen.size)
    reached, arcs = np.int64(0), np.int64(0)
    for first in range(np.uint64(thread) * BLOCK, nodes, np.uint64(threads) * BLOCK):
        for v in range(first, min(first + np.uint64(BLOCK), nodes)):
            wanted, bits = ~seen[v], ZERO
            if wanted:
                for e in range(np.uint64(in_ptr[v]), np.uint64(in_ptr[v + ONE])):
                    bits |= now[np.uint32(in_indices[e])]
                    if bits & wanted == wanted:
                        break
                bits &= wanted
            soon[v] = bits
            if bits:
                seen[v] |= bits
                reached += 1
                arcs += indptr[v + ONE] - indptr[v]
                store_where(out, v, np.uint64(base), bits, np.int32(level))
    return reached, arcs


@njit(cache=True)
def _enqueue(now, soon, queue):
    """The queue of a frontier that was pulled; returns its length."""
    soon[:] = ZERO
    count = 0
    for node in range(now.size):
        if now[node]:
            queue[count] = node
            count += 1
    return count


@njit(cache=True, parallel=True)
def _part(indptr, indices, now, frontier, base, lanes, out, threads):
    """To the end with every thread on its own, for its share of the landmarks."""
    for thread in prange(threads):
        rows = np.empty((LINE, now.size), np.int32)
        queue = np.empty(now.size, np.int32)
        stop = (thread + 1) * lanes // threads
        for first in range(thread * lanes // threads, stop, LINE):
            held = rows[: min(LINE, stop - first)]
            columns = out[:, base + first : base + first + held.shape[0]]
            _turn(columns, held)
            for lane in range(held.shape[0]):
                bit, count = ONE << np.uint64(first + lane), 0
                for u in frontier:
                    if now[u] & bit:
                        queue[count] = u
                        count += 1
                _search(indptr, indices, held[lane], queue, count)
            _turn(held, columns)


@njit(cache=True)
def _turn(table, turned):
    """turned[j, i] = table[i, j], in blocks that stay in the cache."""
    height, width = table.shape
    for first in range(0, height, LINE):
        for start in range(0, width, LINE):
            for i in range(first, min(first + LINE, height)):
                for j in range(start, min(start + LINE, width)):
                    turned[j, i] = table[i, j]


@njit(cache=True)
def _search(indptr, indices, hops, queue, count):
    """A search from the `count` nodes in the queue, whose hops are known; -1 is unreached."""
    done = 0
    while done < count:
        u = np.uint32(queue[done])
        done += 1
        for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
            v = np.uint32(indices[e])
            if hops[v] < 0:
                hops[v] = hops[u] + np.int32(1)
                queue[count] = v
                count += 1
