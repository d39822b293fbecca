"""The Numba kernels of graph attention.

Arrays of heads come as flat memory and (batch, head, token) strides, so that one kernel reads every
layout. Indices are uint64 throughout: a signed index makes Numba test for a negative one, and the
test keeps LLVM from vectorising (measured: 5 times slower). An int literal met by a uint64 becomes
a float, hence the constants. Four neighbours go through each inner loop together: they share the
loads of the query, or of the sum. Not `fastmath=True`: a NaN must come out as NaN.

Threads take blocks of rows in turn, head by head, so that they read the same head's keys at the
same time and a row of many edges delays no one for long. Each sum has one order, whatever the
number of threads.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row.
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.graph_attention.prefetch import prefetch_rows
from state_core.ops.graph_attention.row_sum import add_rows
from state_core.ops.numba_math import FAST, exp_of_negative

ZERO, ONE, FOUR = np.uint64(0), np.uint64(1), np.uint64(4)
TWO, THREE = np.uint64(2), np.uint64(3)
BLOCK = np.uint64(16)  # rows that a thread takes at a time
CHUNK = 128  # edges of a key that are looked up at a time


@njit(parallel=True, fastmath=FAST, cache=True)
def forward(
    q, q_step, k, k_step, v, v_step, neighbors, counts, bias, bias_step, scale,
    out, out_step, lse, sources, width, v_width, threads, far,
):  # fmt: skip
    """Fills out and lse. An empty bias is none. far: a head's tables do not fit in the cache.

    Returns False, and leaves rows as they are, where an index is out of range.
    """
    heads, rows, edges = np.uint64(lse.shape[1]), np.uint64(lse.shape[2]), neighbors.shape[2]
    blocks = (rows + BLOCK - ONE) // BLOCK
    units = np.uint64(lse.shape[0]) * heads * blocks
    valid = np.ones(threads, np.bool_)
    for thread in prange(threads):
        score = np.empty(edges, q.dtype)
        for unit in range(np.uint64(thread), units, np.uint64(threads)):
            b = unit // (heads * blocks)
            h = unit // blocks % heads
            first = unit % blocks * BLOCK
            last = min(first + BLOCK, rows)
            for i in range(first, last):
                row = neighbors[b, i]
                if not _in_range(row, counts[b, i], sources):
                    valid[thread] = False
                    continue
                n = np.uint64(counts[b, i])
                at = b * out_step[0] + h * out_step[1] + i * out_step[2]
                k_at, v_at = b * k_step[0] + h * k_step[1], b * v_step[0] + h * v_step[1]
                q_at = b * q_step[0] + h * q_step[1] + i * q_step[2]
                if far:
                    prefetch_rows(v, v_at, v_step[2], row, n, v_width)
                _dots(q, q_at, k, k_at, k_step[2], row, n, width, score)
                if far and i + ONE < last:
                    soon = _clamped(counts[b, i + ONE], edges)
                    prefetch_rows(k, k_at, k_step[2], neighbors[b, i + ONE], soon, width)
                _scale(score, n, scale)
                if bias.size:
                    _add(bias, b * bias_step[0] + h * bias_step[1] + i * bias_step[2], n, score)
                lse[b, h, i] = _softmax(score, n)
                _weighted_sum(score, v, v_at, v_step[2], row, n, v_width, out, at)
    return valid.all()


@njit(parallel=True, fastmath=FAST, cache=True)
def backward(
    g, g_step, q, q_step, k, k_step, v, v_step, neighbors, counts, bias, bias_step, lse,
    d_lse, starts, reversed_edges, scale, dq, dq_step, dk, dk_step, dv, dv_step, d_bias,
    sources, width, v_width, group, threads, far,
):  # fmt: skip
    """Fills dq, dk, dv and d_bias from g, the gradient of the output, and from d_lse.

    An empty d_lse is none. `group` heads at a time.
    """
    batch, heads, rows = lse.shape
    edges = np.uint64(neighbors.shape[2])
    heads, rows, group = np.uint64(heads), np.uint64(rows), np.uint64(group)
    pairs = np.uint64(batch) * heads
    weight = np.empty(group * rows * edges, q.dtype)
    d_score = np.empty(group * rows * edges, q.dtype)
    row_blocks = (rows + BLOCK - ONE) // BLOCK
    key_blocks = (sources + BLOCK - ONE) // BLOCK
    for base in range(ZERO, pairs, group):
        size = min(group, pairs - base)
        for thread in prange(threads):
            for unit in range(np.uint64(thread), size * row_blocks, np.uint64(threads)):
                pair = unit // row_blocks
                b, h = (base + pair) // heads, (base + pair) % heads
                first = unit % row_blocks * BLOCK
                k_at, v_at = b * k_step[0] + h * k_step[1], b * v_step[0] + h * v_step[1]
                last = min(first + BLOCK, rows)
                for i in range(first, last):
                    row, n = neighbors[b, i], np.uint64(counts[b, i])
                    here = (pair * rows + i) * edges
                    p, ds = weight[here : here + edges], d_score[here : here + edges]
                    q_at = b * q_step[0] + h * q_step[1] + i * q_step[2]
                    g_at = b * g_step[0] + h * g_step[1] + i * g_step[2]
                    dq_at = b * dq_step[0] + h * dq_step[1] + i * dq_step[2]
                    if far:
                        prefetch_rows(v, v_at, v_step[2], row, n, v_width)
                    _dots(q, q_at, k, k_at, k_step[2], row, n, width, p)
                    _scale(p, n, scale)
                    if bias.size:
                        at = b * bias_step[0] + h * bias_step[1] + i * bias_step[2]
                        _add(bias, at, n, p)
                    _dots(g, g_at, v, v_at, v_step[2], row, n, v_width, ds)
                    of_lse = d_lse[b, h, i] if d_lse.size else d_lse.dtype.type(0)
                    if far and i + ONE < last:
                        soon = np.uint64(counts[b, i + ONE])
                        prefetch_rows(k, k_at, k_step[2], neighbors[b, i + ONE], soon, width)
                    _softmax_gradient(p, ds, n, lse[b, h, i], of_lse)
                    if d_bias.size:
                        d_bias[b, h, i, :n] = ds[:n]
                        d_bias[b, h, i, n:] = 0
                    _scale(ds, n, scale)
                    _weighted_sum(ds, k, k_at, k_step[2], row, n, width, dq, dq_at)
        for thread in prange(threads):
            readers = np.empty(CHUNK, np.uint32)
            p_here, ds_here = np.empty(CHUNK, q.dtype), np.empty(CHUNK, q.dtype)
            for unit in range(np.uint64(thread), size * key_blocks, np.uint64(threads)):
                pair = unit // key_blocks
                b, h = (base + pair) // heads, (base + pair) % heads
                first = unit % key_blocks * BLOCK
                p = weight[pair * rows * edges : (pair + ONE) * rows * edges]
                ds = d_score[pair * rows * edges : (pair + ONE) * rows * edges]
                q_at, g_at = b * q_step[0] + h * q_step[1], b * g_step[0] + h * g_step[1]
                for j in range(first, min(first + BLOCK, sources)):
                    dk_at = b * dk_step[0] + h * dk_step[1] + j * dk_step[2]
                    dv_at = b * dv_step[0] + h * dv_step[1] + j * dv_step[2]
                    dk[dk_at : dk_at + width] = 0
                    dv[dv_at : dv_at + v_width] = 0
                    stop = starts[b, j + ONE]
                    for start in range(starts[b, j], stop, CHUNK):
                        some = reversed_edges[b, start : min(start + CHUNK, stop)]
                        n = _collect(some, np.uint32(edges), p, ds, readers, p_here, ds_here)
                        if far:
                            prefetch_rows(g, g_at, g_step[2], readers, n, v_width)
                            prefetch_rows(q, q_at, q_step[2], readers, n, width)
                        add_rows(p_here, g, g_at, g_step[2], readers, n, v_width, dv, dv_at)
                        add_rows(ds_here, q, q_at, q_step[2], readers, n, width, dk, dk_at)


@njit(fastmath=FAST, inline="always")
def _in_range(row, n, sources):
    if n < 0 or n > row.size:
        return False
    largest = np.uint32(0)
    for e in range(n):
        largest = max(largest, np.uint32(row[e]))  # a negative one becomes huge
    return n == 0 or largest < sources


@njit(inline="always")
def _clamped(n, most):
    """A count that nobody has checked yet, as one that can be walked."""
    return np.uint64(min(max(np.int64(n), 0), most))


@njit(fastmath=FAST)
def _dots(x, x_at, y, y_at, y_step, row, n, width, out):
    """out[e] = x · y[row[e]] for e < n."""
    whole = n // FOUR * FOUR
    for e in range(ZERO, whole, FOUR):
        a = y_at + np.uint64(row[e]) * y_step
        b = y_at + np.uint64(row[e + ONE]) * y_step
        c = y_at + np.uint64(row[e + TWO]) * y_step
        d = y_at + np.uint64(row[e + THREE]) * y_step
        in_a = in_b = in_c = in_d = x.dtype.type(0)
        for m in range(width):
            here = x[x_at + m]
            in_a += here * y[a + m]
            in_b += here * y[b + m]
            in_c += here * y[c + m]
            in_d += here * y[d + m]
        out[e], out[e + ONE], out[e + TWO], out[e + THREE] = in_a, in_b, in_c, in_d
    for e in range(whole, n):
        a = y_at + np.uint64(row[e]) * y_step
        in_a = x.dtype.type(0)
        for m in range(width):
            in_a += x[x_at + m] * y[a + m]
        out[e] = in_a


@njit(fastmath=FAST)
def _weighted_sum(weight, y, y_at, y_step, row, n, width, out, out_at):
    """out = Σ_e weight[e] · y[row[e]] over e < n."""
    for m in range(width):
        out[out_at + m] = 0
    add_rows(weight, y, y_at, y_step, row, n, width, out, out_at)


@njit(fastmath=FAST)
def _collect(edges, per_row, p, ds, row, p_here, ds_here):
    """The row, probability and gradient of each of these edges; returns how many there are."""
    for e in range(edges.size):
        edge = np.uint32(edges[e])
        row[e] = edge // per_row
        p_here[e] = p[edge]
        ds_here[e] = ds[edge]
    return np.uint64(edges.size)


@njit(fastmath=FAST, inline="always")
def _scale(score, n, scale):
    for e in range(n):
        score[e] *= scale


@njit(fastmath=FAST, inline="always")
def _add(bias, bias_at, n, score):
    for e in range(n):
        score[e] += bias[bias_at + e]


@njit(fastmath=FAST)
def _softmax(score, n):
    """Turns scores into probabilities in place and returns their log-sum-exp."""
    if n == ZERO:
        return score.dtype.type(-np.inf)
    peak = _largest(score, n)
    total = score.dtype.type(0)
    for e in range(n):
        score[e] = exp_of_negative(score[e] - peak)
        total += score[e]
    inverse = score.dtype.type(1) / total
    for e in range(n):
        score[e] *= inverse
    return peak + np.log(total)


@njit(fastmath=FAST)
def _softmax_gradient(p, ds, n, lse, d_lse):
    """p: scores in, probabilities out. ds: the probabilities' gradient in, the scores' out."""
    mean = p.dtype.type(0)
    for e in range(n):
        p[e] = exp_of_negative(p[e] - lse)
        mean += p[e] * ds[e]
    mean -= d_lse
    for e in range(n):
        ds[e] = p[e] * (ds[e] - mean)


@njit(fastmath=True)
def _largest(score, n):
    """The peak of a row. Where it holds a NaN any entry may come out: exp brings the NaN back."""
    peak = score[ZERO]
    for e in range(n):
        peak = max(peak, score[e])
    return peak
