"""Return probabilities for 16 nodes at once: a lane of a vector each.

A walk of a + b steps from i back to i is one of a steps to some j and one of b from there to i:

    (P^(a+b))_ii = sum over j of (P^a)_ij (P^b)_ji

so half the steps from either end are enough. `there[j]` holds (P^b)_ji and `back[j]` (P^a)_ij; on
an undirected graph back[j] = there[j] d_j / d_i, d the sums of weights, and one of them is enough.
Both are zero but in a ball around the 16 nodes, and only that is walked.

N nodes, S steps; tables [N, 16].
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.lanes import WIDTH, fma, load, scale, splat, store, zeros

ZERO, ONE = np.uint64(0), np.uint64(1)


@njit(cache=True, parallel=True)
def undirected(indptr, indices, probability, degree, share, out, threads):
    """Fills out [N, S]. probability: of each arc; degree [N]: d; share [N]: 1 / d, or 0 if d is."""
    nodes, steps = out.shape
    for thread in prange(threads):
        there, next_there = _table(out), _table(out)
        ball, inside = np.empty(nodes, np.int32), np.zeros(nodes, np.bool_)
        for first in range(thread * WIDTH, nodes, threads * WIDTH):
            end = _start(first, ball, inside, there)
            border = 0
            for step in range(steps):
                if step % 2 == 0:
                    if step:
                        there, next_there = next_there, there
                    border, end = _grow(indptr, indices, ball, inside, border, end)
                    _walk(indptr, indices, probability, ball, end, there, next_there)
                met = there if step % 2 == 0 else next_there
                _meet(ball, end, met, next_there, degree, share, first, out, step)
            _clear(ball, end, inside, there, next_there)


@njit(cache=True, parallel=True)
def directed(
    indptr, indices, probability, in_ptr, in_indices, in_probability, unit, out, threads
):  # fmt: skip
    """Fills out [N, S], from the arcs and the same arcs turned around. unit [N]: ones."""
    nodes, steps = out.shape
    for thread in prange(threads):
        there, next_there, back, next_back = _table(out), _table(out), _table(out), _table(out)
        ball, inside = np.empty(nodes, np.int32), np.zeros(nodes, np.bool_)
        back_ball, back_inside = np.empty(nodes, np.int32), np.zeros(nodes, np.bool_)
        for first in range(thread * WIDTH, nodes, threads * WIDTH):
            end = _start(first, ball, inside, there)
            back_end = _start(first, back_ball, back_inside, back)
            border, back_border = 0, 0
            for step in range(steps):
                if step % 2 == 0:
                    border, end = _grow(in_ptr, in_indices, ball, inside, border, end)
                    _walk(indptr, indices, probability, ball, end, there, next_there)
                    there, next_there = next_there, there
                else:
                    back_border, back_end = _grow(
                        indptr, indices, back_ball, back_inside, back_border, back_end
                    )
                    _walk(in_ptr, in_indices, in_probability, back_ball, back_end, back, next_back)
                    back, next_back = next_back, back
                _meet(ball, end, there, back, unit, unit, first, out, step)
            _clear(ball, end, inside, there, next_there)
            _clear(back_ball, back_end, back_inside, back, next_back)


@njit(cache=True)
def _table(like):
    return np.zeros((like.shape[0], WIDTH), like.dtype)


@njit(cache=True)
def _start(first, ball, inside, table):
    """Each of the 16 nodes is with itself; returns how many there are."""
    count = min(WIDTH, inside.size - first)
    for lane in range(count):
        ball[lane], inside[first + lane] = first + lane, True
        table[first + lane, lane] = 1
    return count


@njit(cache=True)
def _grow(indptr, indices, ball, inside, border, end):
    """Append the neighbours of the ball's border; returns where the new border starts and ends."""
    grown = end
    for i in range(border, end):
        u = np.uint32(ball[i])
        for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
            v = np.uint32(indices[e])
            if not inside[v]:
                inside[v] = True
                ball[grown] = v
                grown += 1
    return end, grown


@njit(cache=True)
def _walk(indptr, indices, probability, ball, end, table, out):
    """out[u] = sum over u's arcs to v of probability * table[v], for u in the ball."""
    for i in range(end):
        u = np.uint32(ball[i])
        row = zeros(table)
        for e in range(np.uint64(indptr[u]), np.uint64(indptr[u + ONE])):
            here = load(table, (np.uint32(indices[e]), ZERO))
            row = fma(splat(probability, (e,)), here, row)
        store(out, (u, ZERO), row)


@njit(cache=True)
def _meet(ball, end, there, back, degree, share, first, out, step):
    """out[i, step] = share[i] * sum over j of degree[j] there[j] back[j], i the node of a lane."""
    sums = np.empty(WIDTH, there.dtype)
    row = zeros(there)
    for i in range(end):
        j = np.uint32(ball[i])
        weighed = scale(load(there, (j, ZERO)), degree[j])
        row = fma(weighed, load(back, (j, ZERO)), row)
    store(sums, (ZERO,), row)
    for lane in range(min(WIDTH, out.shape[0] - first)):
        out[first + lane, step] = share[first + lane] * sums[lane]


@njit(cache=True)
def _clear(ball, end, inside, table, other):
    for i in range(end):
        u = np.uint32(ball[i])
        inside[u] = False
        store(table, (u, ZERO), zeros(table))
        store(other, (u, ZERO), zeros(other))
