"""Numba kernels of Mamba-1's scan: a lane is a channel, so that nothing is summed across lanes
but what the channels share (the gradients of B and C).

Shapes: B batch, T tokens, W strips of 16 channels, N state, c chunks of Q tokens. Channels come in
strips, [B,T,W,16]; a state is [W,N,16]. `log_a` is A log2(e), so that a decay is 2^(delta log_a).

A task is GROUP strips of one batch row and walks over all tokens; tasks share nothing. Forward
keeps the state that enters each chunk. Backward takes the chunks from the last to the first, and
makes the states of one strip and chunk again. What it needs of a token and state number lies side
by side in a scratch of [Q+1,N,4,16]: STATE before the token, DECAY, and what the strips so far add
to the gradients of B and C. With an array for each, backward took a quarter longer.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.lanes import (
    WIDTH,
    fma,
    load,
    power_of_two,
    scale,
    splat,
    store,
    times,
    total,
    zeros,
)
from state_core.ops.numba_math import STEADY

STATE, DECAY, DB, DC = range(4)
GROUP = 4  # 64 channels: four cache lines of each token
_LN2 = 0.6931471805599453

_jit = njit(cache=True, fastmath=STEADY, error_model="numpy")
_pjit = njit(cache=True, fastmath=STEADY, error_model="numpy", parallel=True)


@_jit
def _scan_chunk(u, delta, log_a, B, C, D, b, w, start, stop, state, y):
    """Tokens start..stop of strip w: writes y, moves `state` on."""
    for t in range(start, stop):
        step = load(delta, (b, t, w, 0))
        value = load(u, (b, t, w, 0))
        written = times(step, value)
        out = times(load(D, (w, 0)), value)
        for n in range(log_a.shape[1]):
            decay = power_of_two(times(step, load(log_a, (w, n, 0))))
            kept = times(decay, load(state, (b, w, n, 0)))
            now = fma(written, splat(B, (b, t, n)), kept)
            store(state, (b, w, n, 0), now)
            out = fma(now, splat(C, (b, t, n)), out)
        store(y, (b, t, w, 0), out)


@_pjit
def forward(u, delta, log_a, B, C, D, chunk, state, entering, y):
    """y [B,T,W,16] and, into `entering` [B,c,W,N,16], the states that enter the chunks.

    `state` [B,W,N,16] is the initial state, and becomes the final one.
    """
    batch, length, strips = u.shape[:3]
    groups = -(-strips // GROUP)
    for task in prange(batch * groups):
        b, first = task // groups, task % groups * GROUP
        for c in range(entering.shape[1]):
            stop = min((c + 1) * chunk, length)
            for w in range(first, min(first + GROUP, strips)):
                entering[b, c, w] = state[b, w]
                _scan_chunk(u, delta, log_a, B, C, D, b, w, c * chunk, stop, state, y)


@_jit
def _states(u, delta, log_a, B, b, w, start, rows, entering, scratch):
    """The states of a chunk, from the one that enters, and its decays."""
    for n in range(log_a.shape[1]):
        store(scratch, (0, n, STATE, 0), load(entering, (n, 0)))
    for t in range(rows):
        step = load(delta, (b, start + t, w, 0))
        written = times(step, load(u, (b, start + t, w, 0)))
        for n in range(log_a.shape[1]):
            decay = power_of_two(times(step, load(log_a, (w, n, 0))))
            kept = times(decay, load(scratch, (t, n, STATE, 0)))
            store(scratch, (t, n, DECAY, 0), decay)
            store(scratch, (t + 1, n, STATE, 0), fma(written, splat(B, (b, start + t, n)), kept))


@_jit
def _strip_grads(
    dy, u, delta, log_a, B, C, D, b, w, start, rows, scratch, dstate, du, ddelta, dlog_a, dD,
):  # fmt: skip
    """A strip's gradients over a chunk, last token first. `dstate` [B,W,N,16] is the gradient of
    the state that leaves, and becomes that of the one that enters."""
    for t in range(rows - 1, -1, -1):
        step = load(delta, (b, start + t, w, 0))
        value = load(u, (b, start + t, w, 0))
        grad = load(dy, (b, start + t, w, 0))
        written = times(step, value)
        dwritten, dlog_sum = zeros(u), zeros(u)
        for n in range(log_a.shape[1]):
            now = fma(grad, splat(C, (b, start + t, n)), load(dstate, (b, w, n, 0)))
            before = times(now, load(scratch, (t, n, DECAY, 0)))
            store(dstate, (b, w, n, 0), before)
            dlog = times(before, load(scratch, (t, n, STATE, 0)))
            dlog_sum = fma(dlog, load(log_a, (w, n, 0)), dlog_sum)
            store(dlog_a, (b, w, n, 0), fma(dlog, step, load(dlog_a, (b, w, n, 0))))
            dwritten = fma(now, splat(B, (b, start + t, n)), dwritten)
            dkey = fma(now, written, load(scratch, (t, n, DB, 0)))
            store(scratch, (t, n, DB, 0), dkey)
            state = load(scratch, (t + 1, n, STATE, 0))
            store(scratch, (t, n, DC, 0), fma(grad, state, load(scratch, (t, n, DC, 0))))
        store(du, (b, start + t, w, 0), fma(dwritten, step, times(load(D, (w, 0)), grad)))
        store(ddelta, (b, start + t, w, 0), fma(dwritten, value, scale(dlog_sum, _LN2)))
        store(dD, (b, w, 0), fma(grad, value, load(dD, (b, w, 0))))


@_pjit
def backward(
    dy, u, delta, log_a, B, C, D, chunk, entering, dstate, du, ddelta, dlog_a, dB, dC, dD,
):  # fmt: skip
    """Every gradient. dlog_a [B,W,N,16] and dD [B,W,16] are a batch row's share and must come as
    zeros; dB and dC [B,groups,T,N] are a task's share."""
    batch, length, strips = u.shape[:3]
    groups, n_state = dB.shape[1], dB.shape[3]
    for task in prange(batch * groups):
        b, group = task // groups, task % groups
        scratch = np.empty((chunk + 1, n_state, 4, WIDTH), u.dtype)
        for c in range(entering.shape[1] - 1, -1, -1):
            start = c * chunk
            rows = min(chunk, length - start)
            scratch[:, :, DB:] = 0
            for w in range(group * GROUP, min((group + 1) * GROUP, strips)):
                _states(u, delta, log_a, B, b, w, start, rows, entering[b, c, w], scratch)
                _strip_grads(
                    dy, u, delta, log_a, B, C, D, b, w, start, rows, scratch, dstate,
                    du, ddelta, dlog_a, dD,
                )  # fmt: skip
            for t in range(rows):
                for n in range(n_state):
                    dB[b, group, start + t, n] = total(load(scratch, (t, n, DB, 0)))
                    dC[b, group, start + t, n] = total(load(scratch, (t, n, DC, 0)))
