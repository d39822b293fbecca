"""Numba kernels of the RMS norm: each row is read once and written once.

Shapes: n rows of width d; a task is ROWS rows. The weight's gradient is written per task and
summed outside in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.numba_math import STEADY, dot

ROWS = 64
_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _scale(x, eps):
    return x.dtype.type(1 / np.sqrt(dot(x, x) / x.shape[0] + eps))


@_pjit
def forward(x, weight, eps, out):
    for i in prange(x.shape[0]):
        scale = _scale(x[i], eps)
        for c in range(x.shape[1]):
            out[i, c] = x[i, c] * scale * weight[c]


@_pjit
def backward(dout, x, weight, eps, dx, dweight):
    """dx [n,d] and dweight [tasks,d]."""
    rows, width = x.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        dw = dweight[task]
        dw[:] = 0
        g = np.empty(width, x.dtype)
        for i in range(task * ROWS, min((task + 1) * ROWS, rows)):
            scale = _scale(x[i], eps)
            for c in range(width):
                dw[c] += dout[i, c] * x[i, c] * scale
                g[c] = dout[i, c] * weight[c]
            shrink = x.dtype.type(dot(g, x[i]) * scale * scale / width)
            for c in range(width):
                dx[i, c] = scale * (g[c] - shrink * x[i, c])
