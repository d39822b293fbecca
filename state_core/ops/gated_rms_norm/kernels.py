"""Numba kernels of the gated RMS norm: each row is read from memory once and written once.

Shapes: B batch, T tokens, d width in G groups of a multiple of 16 (what lies beyond a group's
`size` is 0); a task is ROWS tokens of one batch row. `z` is flat memory with strides (batch, token)
in elements, so that a slice of a projection is read in place. The weight's gradient is written per
task and summed outside in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.lanes import (
    WIDTH,
    fma,
    load,
    plus,
    scale,
    sigmoid,
    silu_slope,
    store,
    times,
    total,
    zeros,
)
from state_core.ops.numba_math import STEADY

ROWS = 64
VALUE, SHARE = 0, 1  # what is kept of a group: y silu(z), and sigmoid(z)
_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _gate(y, b, t, first, z, at, size, eps, kept):
    """Fills `kept` [2,d/G] for one group; 1 / the root mean square of its values."""
    squares = zeros(y)
    for c in range(0, kept.shape[1], WIDTH):
        gate = load(z, (at + c,))
        share = sigmoid(gate)
        value = times(load(y, (b, t, first + c)), times(gate, share))
        squares = fma(value, value, squares)
        store(kept, (VALUE, c), value)
        store(kept, (SHARE, c), share)
    return 1 / np.sqrt(total(squares) / size + eps)


@_pjit
def forward(y, z, strides, weight, groups, size, eps, out):
    batch, length, width = y.shape
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        kept = np.empty((2, width // groups), y.dtype)
        for t in range(start, min(start + ROWS, length)):
            for first in range(0, width, kept.shape[1]):
                at = b * strides[0] + t * strides[1] + first
                inverse = _gate(y, b, t, first, z, at, size, eps, kept)
                for c in range(0, kept.shape[1], WIDTH):
                    value = scale(load(kept, (VALUE, c)), inverse)
                    store(out, (b, t, first + c), times(value, load(weight, (first + c,))))


@_pjit
def backward(dout, y, z, strides, weight, groups, size, eps, dy, dz, dweight):
    """dy, dz [B,T,d], and dweight [tasks,d]."""
    batch, length, width = y.shape
    blocks = (length + ROWS - 1) // ROWS
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        kept = np.empty((2, width // groups), y.dtype)
        dweight[task] = 0
        for t in range(start, min(start + ROWS, length)):
            for first in range(0, width, kept.shape[1]):
                at = b * strides[0] + t * strides[1] + first
                inverse = _gate(y, b, t, first, z, at, size, eps, kept)
                inner = zeros(y)
                for c in range(0, kept.shape[1], WIDTH):
                    grad, value = load(dout, (b, t, first + c)), load(kept, (VALUE, c))
                    normed, own = scale(value, inverse), load(dweight, (task, first + c))
                    store(dweight, (task, first + c), fma(grad, normed, own))
                    inner = fma(times(grad, load(weight, (first + c,))), normed, inner)
                shrink = -total(inner) / size
                for c in range(0, kept.shape[1], WIDTH):
                    grad = times(load(dout, (b, t, first + c)), load(weight, (first + c,)))
                    normed = scale(load(kept, (VALUE, c)), inverse)
                    dvalue = scale(plus(grad, scale(normed, shrink)), inverse)
                    gate, share = load(z, (at + c,)), load(kept, (SHARE, c))
                    store(dy, (b, t, first + c), times(dvalue, times(gate, share)))
                    dgate = times(dvalue, load(y, (b, t, first + c)))
                    store(dz, (b, t, first + c), times(dgate, silu_slope(gate, share)))
