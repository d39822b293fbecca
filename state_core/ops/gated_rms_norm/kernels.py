"""Numba kernels of the gated RMS norm: each row is read once and written once.

Shapes: B batch, T tokens, d width in G groups; a task is ROWS tokens of one batch row. `z` is flat
memory with strides (batch, token) in elements, so that a slice of a projection is read in place.
The weight's gradient is written per task and summed outside in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.numba_math import STEADY, dot, sigmoid

ROWS = 64
_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _gate(y, z, v):
    """v = y silu(z); its sum of squares."""
    for c in range(y.shape[0]):
        v[c] = y[c] * z[c] * sigmoid(z[c])
    return dot(v, v)


@_jit
def _gate_grads(y, z, dv, dy, dz):
    one = y.dtype.type(1)
    for c in range(y.shape[0]):
        s = sigmoid(z[c])
        dy[c] = dv[c] * z[c] * s
        dz[c] = dv[c] * y[c] * s * (one + z[c] * (one - s))


@_pjit
def forward(y, z, strides, weight, groups, eps, out):
    batch, length, width = y.shape
    blocks = (length + ROWS - 1) // ROWS
    size = width // groups
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        v = np.empty(size, y.dtype)
        for t in range(start, min(start + ROWS, length)):
            for first in range(0, width, size):
                part = slice(first, first + size)
                at = b * strides[0] + t * strides[1] + first
                squares = _gate(y[b, t, part], z[at : at + size], v)
                scale = y.dtype.type(1 / np.sqrt(squares / size + eps))
                row, w = out[b, t, part], weight[part]
                for c in range(size):
                    row[c] = v[c] * scale * w[c]


@_pjit
def backward(dout, y, z, strides, weight, groups, eps, dy, dz, dweight):
    """dy, dz [B,T,d], and dweight [tasks,d]."""
    batch, length, width = y.shape
    blocks = (length + ROWS - 1) // ROWS
    size = width // groups
    for task in prange(batch * blocks):
        b, start = task // blocks, task % blocks * ROWS
        v, gw = np.empty(size, y.dtype), np.empty(size, y.dtype)
        dweight[task] = 0
        for t in range(start, min(start + ROWS, length)):
            for first in range(0, width, size):
                part = slice(first, first + size)
                at = b * strides[0] + t * strides[1] + first
                gate = z[at : at + size]
                squares = _gate(y[b, t, part], gate, v)
                scale = y.dtype.type(1 / np.sqrt(squares / size + eps))
                g, w, dw = dout[b, t, part], weight[part], dweight[task, part]
                for c in range(size):
                    dw[c] += g[c] * v[c] * scale
                    gw[c] = g[c] * w[c]
                shrink = y.dtype.type(dot(gw, v) * scale * scale / size)
                for c in range(size):
                    v[c] = scale * (gw[c] - shrink * v[c])
                _gate_grads(y[b, t, part], gate, v, dy[b, t, part], dz[b, t, part])
