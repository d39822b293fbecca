"""Numba kernels of a softmax over a chunk's logits: two passes for its normaliser, and one that
turns logits into probabilities where they lie.

Shapes: C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

import math

from numba import njit, prange

from state_core.ops.lanes import (
    WIDTH,
    largest,
    load,
    minus,
    plus,
    power_of_two,
    scale,
    store,
    top,
    total,
    zeros,
)  # fmt: skip
from state_core.ops.numba_math import STEADY, exp_of_negative

_LOG2_E = 1.4426950408889634

_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _peak(logits, i):
    width = logits.shape[1]
    whole = width // WIDTH * WIDTH
    peak = logits[i, 0]
    if whole:
        lanes = load(logits, (i, 0))
        for c in range(WIDTH, whole, WIDTH):
            lanes = largest(lanes, load(logits, (i, c)))
        peak = top(lanes)
    for c in range(whole, width):
        peak = max(peak, logits[i, c])
    return peak


@_pjit
def log_sum_exp(logits, out):
    """out_i = log sum_c exp(logits_ic). A NaN gives NaN."""
    rows, width = logits.shape
    whole = width // WIDTH * WIDTH
    for i in prange(rows):
        peak = _peak(logits, i)
        lanes = zeros(logits)
        for c in range(0, whole, WIDTH):
            lanes = plus(lanes, power_of_two(scale(minus(load(logits, (i, c)), peak), _LOG2_E)))
        mass = total(lanes)
        for c in range(whole, width):
            mass += exp_of_negative(logits[i, c] - peak)
        out[i] = peak + math.log(mass)


@_pjit
def exp_minus(logits, shift):
    """logits_ic becomes exp(logits_ic - shift_i), shift_i at least the row's largest."""
    rows, width = logits.shape
    whole = width // WIDTH * WIDTH
    for i in prange(rows):
        for c in range(0, whole, WIDTH):
            less = minus(load(logits, (i, c)), shift[i])
            store(logits, (i, c), power_of_two(scale(less, _LOG2_E)))
        for c in range(whole, width):
            logits[i, c] = exp_of_negative(logits[i, c] - shift[i])
