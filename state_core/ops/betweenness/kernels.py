"""Brandes' algorithm for 16 sources at once: a lane of a vector each.

A level of the search is a list of entries (node, bits of the lanes that reach it now). What a level
knows lies in the rows of a table that is zero elsewhere, so that a node takes the sum of its
neighbours' rows without asking which of them count:

forward   sigma[v] = sum over arcs u -> v of sigma[u], u in the level before
backward  delta[u] = sigma[u] * sum over arcs u -> v of (1 + delta[v]) / sigma[v], v in the next

and keeps the lanes whose bit is set. N nodes; tables [N, 16].
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.betweenness.masked import choose, over
from state_core.ops.lanes import WIDTH, fma, load, splat, store, times, total, zeros

ZERO, ONE, NONE = np.uint64(0), np.uint64(1), np.uint16(0)


@njit(cache=True, parallel=True)
def betweenness(indptr, indices, in_ptr, in_indices, sources, scores, threads):
    """Adds to scores[b] [N] what the b-th share of the sources gives. False if counts overflow."""
    nodes, shares = indptr.size - 1, scores.shape[0]
    batches = (sources.size + WIDTH - 1) // WIDTH
    finite = np.ones(threads, np.bool_)
    for thread in prange(threads):
        seen, soon = np.zeros(nodes, np.uint16), np.zeros(nodes, np.uint16)
        table, other = np.zeros((nodes, WIDTH)), np.zeros((nodes, WIDTH))
        sigma = np.zeros((nodes, WIDTH))
        node, bits = np.empty(2 * nodes, np.int32), np.empty(2 * nodes, np.uint16)
        starts = np.zeros(nodes + 2, np.int64)
        for share in range(thread, shares, threads):
            for batch in range(share * batches // shares, (share + 1) * batches // shares):
                some = sources[batch * WIDTH : (batch + 1) * WIDTH]
                levels, node, bits, counted, table, other = _forward(
                    indptr, indices, in_ptr, in_indices, some, seen, soon, table, other, sigma,
                    node, bits, starts,
                )  # fmt: skip
                finite[thread] &= counted
                table, other = _backward(
                    indptr, indices, levels, table, other, sigma, node, bits, starts, scores[share]
                )
    return finite.all()


@njit(cache=True)
def _forward(
    indptr, indices, in_ptr, in_indices, sources, seen, soon, table, other, sigma, node, bits,
    starts,
):  # fmt: skip
    """Fills sigma and the levels: entries starts[k] to starts[k + 1] have distance k."""
    unit = np.ones(1)
    one, none = splat(unit, (0,)), zeros(unit)
    everything = none
    seen[:] = NONE
    end = 0
    for lane in range(sources.size):
        if soon[sources[lane]] == NONE:
            node[end] = sources[lane]
            end += 1
        soon[sources[lane]] |= np.uint16(1 << lane)
    level = 0
    starts[1] = end
    while starts[level + 1] > starts[level]:
        for i in range(starts[level], end):
            v = np.uint32(node[i])
            here, soon[v] = soon[v], NONE
            bits[i] = here
            seen[v] |= here
            row = one if level == 0 else _sum(in_ptr, in_indices, v, table, one)
            row = choose(here, row, none)
            everything = fma(one, row, everything)
            store(other, (v, ZERO), row)
            store(sigma, (v, ZERO), choose(here, row, load(sigma, (v, ZERO))))
        if level:
            _clear(table, node, starts[level - 1], starts[level])
        table, other = other, table
        node, bits = _room(node, end + soon.size), _room(bits, end + soon.size)
        end = _reach(indptr, indices, seen, soon, node, bits, starts[level], end)
        level += 1
        starts[level + 1] = end
    _clear(table, node, starts[level - 1], starts[level])
    return level, node, bits, np.isfinite(total(everything)), table, other


@njit(cache=True)
def _reach(indptr, indices, seen, soon, node, bits, start, end):
    """Append the nodes that the level from `start` on reaches; returns the new end."""
    for i in range(start, end):
        u, here = np.uint32(node[i]), bits[i]
        for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
            v = np.uint32(indices[e])
            new = here & ~seen[v]
            if new:
                if soon[v] == NONE:
                    node[end] = v
                    end += 1
                soon[v] |= new
    return end


@njit(cache=True)
def _backward(indptr, indices, levels, table, other, sigma, node, bits, starts, scores):
    """Adds each node's delta, over the sources other than itself, to its score."""
    unit = np.ones(1)
    one, none = splat(unit, (0,)), zeros(unit)
    for level in range(levels - 1, 0, -1):
        for i in range(starts[level], starts[level + 1]):
            u, here = np.uint32(node[i]), bits[i]
            paths = load(sigma, (u, ZERO))
            delta = none
            if level < levels - 1:
                delta = times(paths, _sum(indptr, indices, u, table, one))
                delta = choose(here, delta, none)
                scores[u] += total(delta)
            store(other, (u, ZERO), choose(here, over(fma(one, one, delta), paths), none))
        if level < levels - 1:
            _clear(table, node, starts[level + 1], starts[level + 2])
        table, other = other, table
    if levels > 1:
        _clear(table, node, starts[1], starts[2])
    return table, other


@njit(cache=True)
def _sum(indptr, indices, u, table, one):
    """The sum of the rows of u's neighbours."""
    row = zeros(table)
    for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
        row = fma(one, load(table, (np.uint32(indices[e]), ZERO)), row)
    return row


@njit(cache=True)
def _clear(table, node, start, end):
    for i in range(start, end):
        store(table, (np.uint32(node[i]), ZERO), zeros(table))


@njit(cache=True)
def _room(array, size):
    """The array, or a copy with room for more if it is shorter than `size`."""
    if array.size >= size:
        return array
    longer = np.empty(2 * size, array.dtype)
    longer[: array.size] = array
    return longer
