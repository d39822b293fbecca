"""Numba kernels of the SwiGLU gate: each element is read once and written once.

Shapes: n rows of F gates and F values, F a multiple of 16.
"""

from __future__ import annotations

from numba import njit, prange

from state_core.ops.lanes import WIDTH, load, sigmoid, silu_slope, store, times
from state_core.ops.numba_math import STEADY

_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_pjit
def forward(x, out):
    rows, width = out.shape
    for i in prange(rows):
        for c in range(0, width, WIDTH):
            gate, up = load(x, (i, c)), load(x, (i, width + c))
            store(out, (i, c), times(times(gate, sigmoid(gate)), up))


@_pjit
def backward(dout, x, dx):
    rows, width = dout.shape
    for i in prange(rows):
        for c in range(0, width, WIDTH):
            gate, up, grad = load(x, (i, c)), load(x, (i, width + c)), load(dout, (i, c))
            s = sigmoid(gate)
            store(dx, (i, c), times(times(grad, up), silu_slope(gate, s)))
            store(dx, (i, width + c), times(grad, times(gate, s)))
