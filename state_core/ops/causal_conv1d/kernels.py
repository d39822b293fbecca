"""Numba kernels of the causal depthwise convolution: one pass forward, one backward.

Shapes: B batch, T tokens, C channels (a multiple of 16), W taps (weights come as [W,C]); a task is
ROWS tokens of one batch row. `x` is flat memory with strides (batch, token) in elements, so that a
slice of a larger projection is read in place; `initial` [B,W-1,C] stands before it. Gradients of
the weights are written per task and summed outside in a fixed order: no atomics, the same bits in
every run.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.lanes import (
    WIDTH,
    fma,
    load,
    plus,
    sigmoid,
    silu_slope,
    store,
    times,
    zeros,
)
from state_core.ops.numba_math import STEADY

ROWS = 64
_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


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
            for c in range(0, window.shape[1], WIDTH):
                store(window, (i, c), load(x, (at + c,)))


@_jit
def _tap(window, weight, t, c, total):
    """What rows t .. t+W-1 of the window give to output t, added to `total`."""
    for w in range(weight.shape[0]):
        total = fma(load(weight, (w, c)), load(window, (t + w, c)), total)
    return total


@_jit
def _convolve(out, window, weight):
    """Row t of out reads rows t .. t+W-1 of the window."""
    for t in range(out.shape[0]):
        for c in range(0, out.shape[1], WIDTH):
            store(out, (t, c), _tap(window, weight, t, c, zeros(out)))


@_jit
def _output_grads(grad, dy, window, weight, bias):
    """Rows of dy, and what the activation makes of them, made again from the window."""
    for t in range(dy.shape[0]):
        for c in range(0, grad.shape[1], WIDTH):
            before = _tap(window, weight, t, c, load(bias, (c,)))
            slope = silu_slope(before, sigmoid(before))
            store(grad, (t, c), times(load(dy, (t, c)), slope))


@_jit
def _weight_grads(window, grad, rows, dweight, dbias):
    for c in range(0, dbias.shape[0], WIDTH):
        summed = zeros(grad)
        for t in range(rows):
            summed = plus(summed, load(grad, (t, c)))
        store(dbias, (c,), summed)
        for w in range(dweight.shape[0]):
            summed = zeros(grad)
            for t in range(rows):
                summed = fma(load(window, (t + w, c)), load(grad, (t, c)), summed)
            store(dweight, (w, c), summed)


@_pjit
def forward(x, strides, initial, weight, bias, silu, y):
    batch, length, channels = y.shape
    taps = weight.shape[0]
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        rows = min(start + ROWS, length) - start
        window = np.empty((rows + taps - 1, channels), y.dtype)
        _load_window(window, x, strides, initial, b, start - taps + 1, length)
        for t in range(rows):
            for c in range(0, channels, WIDTH):
                out = _tap(window, weight, t, c, load(bias, (c,)))
                if silu:
                    out = times(out, sigmoid(out))
                store(y, (b, start + t, c), out)


@_pjit
def backward(dy, x, strides, initial, weight, flipped, bias, silu, dx, dinitial, dweight, dbias):
    """dx [B,T,C], dinitial [B,W-1,C], and per task dweight [tasks,W,C], dbias [tasks,C].

    An input's gradient is the convolution, forward in time, of the output's with `flipped`, the
    weights in reverse order.
    """
    batch, length, channels = dy.shape
    past = weight.shape[0] - 1
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        stop = min(start + ROWS, length)
        reach = min(stop + past, length)  # later rows that still read a row of this block
        window = np.empty((reach - start + past, channels), dy.dtype)
        _load_window(window, x, strides, initial, b, start - past, length)
        grad = np.zeros((stop - start + past, channels), dy.dtype)
        if silu:
            _output_grads(grad, dy[b, start:reach], window, weight, bias)
        else:
            grad[: reach - start] = dy[b, start:reach]
        _weight_grads(window, grad, stop - start, dweight[task], dbias[task])
        _convolve(dx[b, start:stop], grad, flipped)
        if start == 0:
            head = np.zeros((2 * past, channels), dy.dtype)
            head[past:] = grad[:past]
            _convolve(dinitial[b], head, flipped)
