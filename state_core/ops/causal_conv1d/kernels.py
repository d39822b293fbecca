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
def _load_window(window, x, strides, initial, b, first, length):
    """Rows first, first+1, ... of row b's inputs: from `initial` before 0, zeros after the end."""
    for i in range(window.shape[0]):
        t = first + i
        if t >= length:
            window[i] = 0
        elif t < 0:
            window[i] = initial[b, initial.shape[1] + t]
        else:
            at = b * strides[0] + t * strides[1]
            row = x[at : at + window.shape[1]]
            for c in range(window.shape[1]):
                window[i, c] = row[c]


@_jit
def _convolve(out, window, weight, bias):
    """Before the activation; row t of out reads rows t .. t+W-1 of the window."""
    for t in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[t, c] = bias[c] + weight[0, c] * window[t, c]
        for w in range(1, weight.shape[0]):
            for c in range(out.shape[1]):
                out[t, c] += weight[w, c] * window[t + w, c]


@_jit
def _weight_grads(window, grad, rows, dweight, dbias):
    dweight[:] = 0
    dbias[:] = 0
    for t in range(rows):
        for c in range(dbias.shape[0]):
            dbias[c] += grad[t, c]
        for w in range(dweight.shape[0]):
            for c in range(dbias.shape[0]):
                dweight[w, c] += window[t + w, c] * grad[t, c]


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
    batch, length, channels = y.shape
    taps = weight.shape[0]
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        stop = min(start + ROWS, length)
        window = np.empty((stop - start + taps - 1, channels), y.dtype)
        _load_window(window, x, strides, initial, b, start - taps + 1, length)
        _convolve(y[b, start:stop], window, weight, bias)
        if silu:
            for t in range(start, stop):
                _silu(y[b, t])


@_pjit
def backward(dy, x, strides, initial, weight, flipped, bias, silu, dx, dinitial, dweight, dbias):
    """dx [B,T,C], dinitial [B,W-1,C], and per task dweight [tasks,W,C], dbias [tasks,C].

    An input's gradient is the convolution, forward in time, of the output's with `flipped`, the
    weights in reverse order.
    """
    batch, length, channels = dy.shape
    past = weight.shape[0] - 1
    blocks = (length + ROWS - 1) // ROWS
    none = np.zeros_like(bias)
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        stop = min(start + ROWS, length)
        reach = min(stop + past, length)  # later rows that still read a row of this block
        window = np.empty((reach - start + past, channels), dy.dtype)
        _load_window(window, x, strides, initial, b, start - past, length)
        grad = np.zeros((stop - start + past, channels), dy.dtype)
        if silu:
            _convolve(grad[: reach - start], window, weight, bias)
            for t in range(start, reach):
                _silu_grad(grad[t - start], dy[b, t])
        else:
            grad[: reach - start] = dy[b, start:reach]
        _weight_grads(window, grad, stop - start, dweight[task], dbias[task])
        _convolve(dx[b, start:stop], grad, flipped, none)
        if start == 0:
            head = np.zeros((2 * past, channels), dy.dtype)
            head[past:] = grad[:past]
            _convolve(dinitial[b], head, flipped, none)
