"""Numba kernels of the SwiGLU gate: each element is read once and written once.

Shapes: n rows of F gates and F values.
"""

from __future__ import annotations

from numba import njit, prange

from state_core.ops.numba_math import STEADY, sigmoid

_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_pjit
def forward(x, out):
    rows, width = out.shape
    for i in prange(rows):
        gate, up = x[i, :width], x[i, width:]
        for c in range(width):
            out[i, c] = gate[c] * sigmoid(gate[c]) * up[c]


@_pjit
def backward(dout, x, dx):
    rows, width = dout.shape
    one = x.dtype.type(1)
    for i in prange(rows):
        gate, up = x[i, :width], x[i, width:]
        dgate, dup = dx[i, :width], dx[i, width:]
        for c in range(width):
            s = sigmoid(gate[c])
            dup[c] = dout[i, c] * gate[c] * s
            dgate[c] = dout[i, c] * up[c] * s * (one + gate[c] * (one - s))
