"""Numba kernels of the causal depthwise convolution: one pass forward, one backward.

Shapes: B batch, T tokens, C channels, W taps (weights come as [W,C]); a task is ROWS tokens of one
batch row. `x` is flat memory with strides (batch, token) in elements, so that a slice of a larger
projection is read in place; `initial` [B,W-1,C] stands before it. Gradients of the weights are
written per task and summed outside in a fixed order: no atomics, the same bits in every run.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.numba_math import FAST, sigmoid

ROWS = 64
_jit = njit(cache=True, fastmath=FAST, error_model="numpy")
_pjit = njit(cache=True, fastmath=FAST, error_model="numpy", parallel=True)


@_jit
def _input_row(x, strides, initial, b, t):
    """x[b,t,:], or the row of `initial` that stands there for t < 0."""
    if t < 0:
        return initial[b, initial.shape[1] + t]
    at = b * strides[0] + t * strides[1]
    return x[at : at + initial.shape[2]]


@_jit
def _add_scaled(out, row, factor):
    for c in range(out.shape[0]):
        out[c] += row[c] * factor[c]


@_jit
def _convolve(out, x, strides, initial, weight, bias, b, t):
    """Row t before the activation."""
    out[:] = bias
    for w in range(weight.shape[0]):
        _add_scaled(out, _input_row(x, strides, initial, b, t - weight.shape[0] + 1 + w), weight[w])


@_jit
def _silu(row):
    for c in range(row.shape[0]):
        row[c] *= sigmoid(row[c])


@_jit
def _silu_grad(row, dy):
    """row becomes dy silu'(row)."""
    one = row.dtype.type(1)
    for c in range(row.shape[0]):
        s = sigmoid(row[c])
        row[c] = dy[c] * s * (one + row[c] * (one - s))


@_pjit
def forward(x, strides, initial, weight, bias, silu, y):
    batch, length, _ = y.shape
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        for t in range(start, min(start + ROWS, length)):
            _convolve(y[b, t], x, strides, initial, weight, bias, b, t)
            if silu:
                _silu(y[b, t])


@_pjit
def backward(dy, x, strides, initial, weight, bias, silu, dx, dinitial, dweight, dbias):
    """dx [B,T,C], dinitial [B,W-1,C], and per task dweight [tasks,W,C], dbias [tasks,C]."""
    batch, length, channels = dy.shape
    taps = weight.shape[0]
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        stop = min(start + ROWS, length)
        reach = min(stop + taps - 1, length)  # later rows that still read a row of this block
        grad = np.empty((reach - start, channels), dy.dtype)
        for t in range(start, reach):
            row = grad[t - start]
            if silu:
                _convolve(row, x, strides, initial, weight, bias, b, t)
                _silu_grad(row, dy[b, t])
            else:
                row[:] = dy[b, t]
        dweight[task] = 0
        dbias[task] = 0
        for t in range(start, stop):
            dbias[task] += grad[t - start]
            for w in range(taps):
                source = _input_row(x, strides, initial, b, t - taps + 1 + w)
                _add_scaled(dweight[task, w], source, grad[t - start])
        first = 1 - taps if start == 0 else start
        for t in range(first, stop):
            out = dx[b, t] if t >= 0 else dinitial[b, taps - 1 + t]
            out[:] = 0
            for w in range(taps):
                reader = t + taps - 1 - w
                if start <= reader < reach:
                    _add_scaled(out, grad[reader - start], weight[w])
