"""Elementary functions that LLVM can vectorise inside a Numba loop.

`math.exp` compiles to one library call per element, ten times the price of the loop around it. For
float32 the exponential here is plain arithmetic; float64, where accuracy is wanted rather than
speed, keeps the library's.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

# Not nnan, ninf: a NaN in the input has to stay visible.
FAST = {"contract", "reassoc", "nsz", "arcp"}
# Without reassoc the order of every sum and product is the source's. With it, code that was just
# compiled and the same code from Numba's cache may add in another order, and so give other bits.
STEADY = FAST - {"reassoc"}


@intrinsic
def _as_float32(typing_context, bits):
    """A float with these bits."""

    def bitcast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), bitcast


@njit(cache=True, fastmath=STEADY)
def dot(x, y):
    """The inner product of two vectors, in four chains so that none waits for the other's sum."""
    a = b = c = d = x.dtype.type(0)
    whole = x.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        a += x[i] * y[i]
        b += x[i + 1] * y[i + 1]
        c += x[i + 2] * y[i + 2]
        d += x[i + 3] * y[i + 3]
    for i in range(whole, x.shape[0]):
        a += x[i] * y[i]
    return (a + b) + (c + d)


def exp_of_negative(x):
    """e^x for x <= 0."""
    return math.exp(x)


@overload(exp_of_negative, jit_options={"fastmath": FAST})
def _compile_exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp32(x):
        # x = n ln 2 + r with |r| <= ln 2 / 2; then e^x = 2^n e^r, e^r as in Cephes' expf (2 ulp).
        x = np.float32(-87.0) if x < np.float32(-87.0) else x  # below it 2^n has no float32
        n = np.floor(x * np.float32(1.442695041) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        e = np.float32(1.9875691500e-4)
        e = e * r + np.float32(1.3981999507e-3)
        e = e * r + np.float32(8.3334519073e-3)
        e = e * r + np.float32(4.1665795894e-2)
        e = e * r + np.float32(1.6666665459e-1)
        e = e * r + np.float32(5.0000001201e-1)
        e = e * r * r + r + np.float32(1.0)
        return e * _as_float32((np.int32(n) + np.int32(127)) << np.int32(23))

    return exp32


def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + math.exp(-x))


@overload(sigmoid, jit_options={"fastmath": FAST})
def _compile_sigmoid(x):
    one = np.float32(1) if x == types.float32 else 1.0

    def stable(x):
        e = exp_of_negative(-abs(x))
        return (one if x >= 0 else e) / (one + e)

    return stable
