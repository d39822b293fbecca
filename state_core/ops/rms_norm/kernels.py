"""Numba kernels of the RMS norm: each row is read from memory once and written once.

Shapes: n rows of width d, a multiple of 16 (what lies beyond `size` is 0); a task is ROWS rows. The
weight's gradient is written per task and summed outside in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.lanes import WIDTH, fma, load, plus, scale, store, times, total, zeros
from state_core.ops.numba_math import STEADY

ROWS = 64
_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _inverse(x, i, size, eps):
    """1 / the root mean square of row i."""
    squares = zeros(x)
    for c in range(0, x.shape[1], WIDTH):
        value = load(x, (i, c))
        squares = fma(value, value, squares)
    return 1 / np.sqrt(total(squares) / size + eps)


@_pjit
def forward(x, weight, size, eps, out):
    for i in prange(x.shape[0]):
        inverse = _inverse(x, i, size, eps)
        for c in range(0, x.shape[1], WIDTH):
            store(out, (i, c), times(scale(load(x, (i, c)), inverse), load(weight, (c,))))


@_pjit
def backward(dout, x, weight, size, eps, dx, dweight):
    """dx [n,d] and dweight [tasks,d]."""
    rows, width = x.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        dweight[task] = 0
        for i in range(task * ROWS, min((task + 1) * ROWS, rows)):
            inverse = _inverse(x, i, size, eps)
            inner = zeros(x)
            for c in range(0, width, WIDTH):
                grad, value = load(dout, (i, c)), scale(load(x, (i, c)), inverse)
                store(dweight, (task, c), fma(grad, value, load(dweight, (task, c))))
                inner = fma(times(grad, load(weight, (c,))), value, inner)
            shrink = -total(inner) / size
            for c in range(0, width, WIDTH):
                grad, value = load(dout, (i, c)), scale(load(x, (i, c)), inverse)
                across = plus(times(grad, load(weight, (c,))), scale(value, shrink))
                store(dx, (i, c), scale(across, inverse))
