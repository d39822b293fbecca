"""Numba kernels of the chunked SSD: every tile fits in L1/L2, every product is a small GEMM.

Shapes: B batch, T tokens, c chunk, Q tokens of a chunk, H heads, P head dim, G groups, N state.
Q, N and P are padded to a multiple of PAD in tiles and states: products need no remainder.
A state is kept as [N,P] here ([P,N] outside): then no product of the forward needs a transpose.

`x`, `B`, `C` come as flat memory with strides in elements (batch, token, head or group; the last
dimension is dense), so that slices of a larger projection are read in place. A task is one chunk
of one batch row, with all its heads: C B^T is computed once per group, and sums over heads stay
inside the task, so nothing is reduced across threads and results do not depend on their number.

Decays: prefix_t = prod_{s<=t} a_s, suffix_u = dt_u prod_{s>u} a_s, and the row e_t[u] =
prod_{u<s<=t} a_s, each built by multiplying factors a_s = exp(dt_s A) <= 1: never overflows, and
costs one exp per token instead of one per pair.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from state_core.ops.numba_math import FAST
from state_core.ops.ssd.matmul import matmul_add, matmul_add_causal, matmul_add_upper

_jit = njit(cache=True, fastmath=FAST, error_model="numpy")
_pjit = njit(cache=True, fastmath=FAST, error_model="numpy", parallel=True)

_TINY = 1e-30  # smaller decays are set to 0: denormal arithmetic is slow on some CPUs


@_jit
def _load(tile, flat, start, stride, rows, cols):
    """Copy `rows` x `cols` strided elements into `tile`, zeros beyond."""
    if rows < tile.shape[0] or cols < tile.shape[1]:
        tile[:] = 0
    for i in range(rows):
        row = flat[start + i * stride : start + i * stride + cols]
        for j in range(cols):
            tile[i, j] = row[j]


@_jit
def _load_scaled(tile, flat, start, stride, rows, cols, scale):
    """`_load` with one factor per row."""
    if rows < tile.shape[0] or cols < tile.shape[1]:
        tile[:] = 0
    for i in range(rows):
        row = flat[start + i * stride : start + i * stride + cols]
        s = scale[i]
        for j in range(cols):
            tile[i, j] = s * row[j]


@_jit
def _scale_rows(out, tile, scale):
    for i in range(tile.shape[0]):
        s = scale[i]
        for j in range(tile.shape[1]):
            out[i, j] = s * tile[i, j]


@_jit
def _scale(out, tile, factor):
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            out[i, j] = factor * tile[i, j]


@_jit
def _transpose(out, tile):
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = tile[i, j]


@_jit
def _decays(a, dt, prefix, suffix):
    """Fill prefix and suffix (see above; suffix without its dt); return the chunk's decay."""
    p = a.dtype.type(1)
    tiny = a.dtype.type(_TINY)
    for t in range(a.shape[0]):
        p = p * a[t]
        p = p if p > tiny else a.dtype.type(0)
        prefix[t] = p
    s = a.dtype.type(1)
    for t in range(a.shape[0] - 1, -1, -1):
        suffix[t] = s
        s = s * a[t]
        s = s if s > tiny else a.dtype.type(0)
    return p


@_jit
def _load_steps(a, dt, decay, steps, b, start, rows, h):
    """One head's decay and step of a chunk; beyond the sequence the state stays as it is."""
    for t in range(a.shape[0]):
        inside = t < rows
        a[t] = decay[b, start + t, h] if inside else 1
        dt[t] = steps[b, start + t, h] if inside else 0


@_jit
def _decay_row(e, a, t):
    """e_t from e_{t-1}, but for its own entry, which is still 0."""
    tiny = a.dtype.type(_TINY)
    zero = a.dtype.type(0)
    for u in range(e.shape[0]):
        v = e[u] * a[t]
        e[u] = v if v > tiny else zero


@_jit
def _mix(scores, a, dt, e, mix):
    """mix[t,u] = (C_t . B_u) e_t[u] dt_u: what token t takes of x_u."""
    e[:] = 0
    for t in range(mix.shape[0]):
        _decay_row(e, a, t)
        e[t] = 1
        for u in range(mix.shape[1]):
            mix[t, u] = scores[t, u] * e[u] * dt[u]


@_jit
def _mix_grads(scores, dmix, a, dt, e, mix, dscores, dstep, dlog):
    """mix again, and from the gradient of it those of scores (added), dt and the log decays.

    A token's own entry knows no decay; left out of dlog, it cannot drown the others by rounding.
    """
    e[:] = 0
    dstep[:] = 0
    for t in range(mix.shape[0]):
        _decay_row(e, a, t)
        taken = a.dtype.type(0)
        for u in range(mix.shape[1]):
            m = scores[t, u] * e[u]
            r = dmix[t, u] * m
            mix[t, u] = m * dt[u]
            dscores[t, u] += dmix[t, u] * e[u] * dt[u]
            dstep[u] += r
            taken += r * dt[u]
        dlog[t] = taken
        e[t] = 1
    for t in range(mix.shape[0]):
        dlog[t] -= dstep[t] * dt[t]
        mix[t, t] = scores[t, t] * dt[t]
        dscores[t, t] += dmix[t, t] * dt[t]
        dstep[t] += dmix[t, t] * scores[t, t]


@_jit
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += a[i, j] * b[i, j]
    return total


@_jit
def _query_grads(part, prefix, query, dquery, dlog):
    """Through prefix_t C_t S with S entering: `part` is dy S^T."""
    for t in range(part.shape[0]):
        dot = part.dtype.type(0)
        for n in range(part.shape[1]):
            v = prefix[t] * part[t, n]
            dquery[t, n] += v
            dot += v * query[t, n]
        dlog[t] += dot


@_jit
def _key_grads(part, suffix, dt, key, scaled, dkey, dstep, kept):
    """Through suffix_u dt_u x_u B_u^T, added to the state that leaves: `part` is x dS^T."""
    for u in range(part.shape[0]):
        dot = part.dtype.type(0)
        w = suffix[u] * dt[u]
        for n in range(part.shape[1]):
            dkey[u, n] += w * part[u, n]
            scaled[u, n] = w * key[u, n]
            dot += part[u, n] * key[u, n]
        dstep[u] += suffix[u] * dot
        kept[u] = w * dot


@_jit
def _log_decay_grads(dlog, kept, carried):
    """dlog [Q] becomes the gradient of log a_t.

    A decay acts on what later tokens read (dlog, summed from the end), on what earlier tokens leave
    to the next chunk (kept, summed from the start) and on what earlier chunks left (carried).
    """
    running = dlog.dtype.type(0)
    for t in range(dlog.shape[0] - 1, -1, -1):
        running += dlog[t]
        dlog[t] = running
    running = carried
    for t in range(dlog.shape[0]):
        dlog[t] += running
        running += kept[t]


@_pjit
def chunk_states(x, xs, B, bs, decay, steps, dims, states, totals):
    """What each chunk alone adds to the state, into states [B,c,H,N,P]; its decay into totals."""
    batch, length, heads, width, groups, n_state, chunk = dims
    chunks = states.shape[1]
    for task in prange(batch * chunks):
        b, c = task // chunks, task % chunks
        start = c * chunk
        rows = min(chunk, length - start)
        n_pad, p_pad = states.shape[3], states.shape[4]
        key = np.empty((chunk, n_pad), decay.dtype)
        xt = np.empty((chunk, p_pad), decay.dtype)
        a, dt = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        prefix, suffix = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        for h in range(heads):
            if h % (heads // groups) == 0:
                g = h // (heads // groups)
                _load(key, B, b * bs[0] + start * bs[1] + g * bs[2], bs[1], rows, n_state)
            _load_steps(a, dt, decay, steps, b, start, rows, h)
            totals[b, c, h] = _decays(a, dt, prefix, suffix)
            for u in range(chunk):
                suffix[u] *= dt[u]
            at = b * xs[0] + start * xs[1] + h * xs[2]
            _load_scaled(xt, x, at, xs[1], rows, width, suffix)
            states[b, c, h] = 0
            matmul_add(states[b, c, h], key.T, xt)


@_pjit
def scan_states(states, totals, carry, reverse):
    """Turn each chunk's own state into the state that enters it; carry [B,H,N,P] goes in and out.

    In reverse it does the same for the gradients: what enters is what the later chunks ask for.
    """
    batch, chunks, heads, n_pad, p_pad = states.shape
    for task in prange(batch * heads * n_pad):
        b, h, n = task // (heads * n_pad), task // n_pad % heads, task % n_pad
        for step in range(chunks):
            c = chunks - 1 - step if reverse else step
            total = totals[b, c, h]
            for p in range(p_pad):
                entering = carry[b, h, n, p]
                carry[b, h, n, p] = total * entering + states[b, c, h, n, p]
                states[b, c, h, n, p] = entering


@_pjit
def chunk_outputs(x, xs, B, bs, C, cs, D, decay, steps, dims, states, starts_empty, y):
    """y [B,T,H,P] from the states that enter the chunks."""
    batch, length, heads, width, groups, n_state, chunk = dims
    chunks = states.shape[1]
    for task in prange(batch * chunks):
        b, c = task // chunks, task % chunks
        start = c * chunk
        rows = min(chunk, length - start)
        n_pad, p_pad = states.shape[3], states.shape[4]
        key, query = np.empty((chunk, n_pad), decay.dtype), np.empty((chunk, n_pad), decay.dtype)
        key_t, scaled = np.empty((n_pad, chunk), decay.dtype), np.empty_like(query)
        scores, mix = np.empty((chunk, chunk), decay.dtype), np.empty((chunk, chunk), decay.dtype)
        xt, out = np.empty((chunk, p_pad), decay.dtype), np.empty((chunk, p_pad), decay.dtype)
        a, dt, e = (
            np.empty(chunk, decay.dtype),
            np.empty(chunk, decay.dtype),
            np.empty(chunk, decay.dtype),
        )
        prefix, suffix = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        for h in range(heads):
            if h % (heads // groups) == 0:
                g = h // (heads // groups)
                _load(key, B, b * bs[0] + start * bs[1] + g * bs[2], bs[1], rows, n_state)
                _load(query, C, b * cs[0] + start * cs[1] + g * cs[2], cs[1], rows, n_state)
                _transpose(key_t, key)
                scores[:] = 0
                matmul_add(scores, query, key_t)
            _load_steps(a, dt, decay, steps, b, start, rows, h)
            _load(xt, x, b * xs[0] + start * xs[1] + h * xs[2], xs[1], rows, width)
            _mix(scores, a, dt, e, mix)
            _scale(out, xt, D[h])
            matmul_add_causal(out, mix, xt)
            if c > 0 or not starts_empty:
                _decays(a, dt, prefix, suffix)
                _scale_rows(scaled, query, prefix)
                matmul_add(out, scaled, states[b, c, h])
            for t in range(rows):
                for p in range(width):
                    y[b, start + t, h, p] = out[t, p]


@_pjit
def chunk_state_grads(dy, C, cs, decay, steps, dims, grads):
    """What each chunk alone asks of the state that enters it, into grads [B,c,H,N,P]."""
    batch, length, heads, width, groups, n_state, chunk = dims
    chunks = grads.shape[1]
    for task in prange(batch * chunks):
        b, c = task // chunks, task % chunks
        start = c * chunk
        rows = min(chunk, length - start)
        n_pad, p_pad = grads.shape[3], grads.shape[4]
        query = np.empty((chunk, n_pad), decay.dtype)
        dyt = np.empty((chunk, p_pad), decay.dtype)
        a, dt = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        prefix, suffix = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        for h in range(heads):
            if h % (heads // groups) == 0:
                g = h // (heads // groups)
                _load(query, C, b * cs[0] + start * cs[1] + g * cs[2], cs[1], rows, n_state)
            _load_steps(a, dt, decay, steps, b, start, rows, h)
            _decays(a, dt, prefix, suffix)
            row = heads * width
            at = (b * length + start) * row + h * width
            _load_scaled(dyt, dy, at, row, rows, width, prefix)
            grads[b, c, h] = 0
            matmul_add(grads[b, c, h], query.T, dyt)


@_pjit
def chunk_grads(
    dy, x, xs, B, bs, C, cs, A, D, decay, steps, dims, states, state_grads, starts_empty, ends_free,
    dx, ddt, dA, dB, dC, dD,
):  # fmt: skip
    """Every gradient of a chunk, from the states that enter it and the gradients of what leaves it.

    dA, dD are [B,c,H]: a chunk's share each.
    """
    batch, length, heads, width, groups, n_state, chunk = dims
    chunks = states.shape[1]
    for task in prange(batch * chunks):
        b, c = task // chunks, task % chunks
        start = c * chunk
        rows = min(chunk, length - start)
        n_pad, p_pad = states.shape[3], states.shape[4]
        key, query = np.empty((chunk, n_pad), decay.dtype), np.empty((chunk, n_pad), decay.dtype)
        key_t, scaled = np.empty((n_pad, chunk), decay.dtype), np.empty_like(query)
        dkey, dquery, part = np.empty_like(query), np.empty_like(query), np.empty_like(query)
        scores, dscores = (
            np.empty((chunk, chunk), decay.dtype),
            np.empty((chunk, chunk), decay.dtype),
        )
        mix, dmix = np.empty_like(scores), np.empty_like(scores)
        xt, dyt, dxt = (
            np.empty((chunk, p_pad), decay.dtype),
            np.empty((chunk, p_pad), decay.dtype),
            np.empty((chunk, p_pad), decay.dtype),
        )
        x_t, state_t = np.empty((p_pad, chunk), decay.dtype), np.empty((p_pad, n_pad), decay.dtype)
        a, dt, e = (
            np.empty(chunk, decay.dtype),
            np.empty(chunk, decay.dtype),
            np.empty(chunk, decay.dtype),
        )
        prefix, suffix = np.empty(chunk, decay.dtype), np.empty(chunk, decay.dtype)
        dlog, dstep, kept = np.empty_like(a), np.empty_like(a), np.empty_like(a)
        per_group = heads // groups
        for h in range(heads):
            g = h // per_group
            if h % per_group == 0:
                _load(key, B, b * bs[0] + start * bs[1] + g * bs[2], bs[1], rows, n_state)
                _load(query, C, b * cs[0] + start * cs[1] + g * cs[2], cs[1], rows, n_state)
                _transpose(key_t, key)
                scores[:] = 0
                matmul_add(scores, query, key_t)
                dscores[:] = 0
                dkey[:] = 0
                dquery[:] = 0
            _load_steps(a, dt, decay, steps, b, start, rows, h)
            total = _decays(a, dt, prefix, suffix)
            _load(xt, x, b * xs[0] + start * xs[1] + h * xs[2], xs[1], rows, width)
            row = heads * width
            _load(dyt, dy, (b * length + start) * row + h * width, row, rows, width)
            _transpose(x_t, xt)
            dmix[:] = 0
            matmul_add(dmix, dyt, x_t)
            _mix_grads(scores, dmix, a, dt, e, mix, dscores, dstep, dlog)
            kept[:] = 0
            carried = decay.dtype.type(0)
            _scale(dxt, dyt, D[h])
            dD[b, c, h] = _dot(xt, dyt)
            matmul_add_upper(dxt, mix.T, dyt)
            if c > 0 or not starts_empty:
                _transpose(state_t, states[b, c, h])
                part[:] = 0
                matmul_add(part, dyt, state_t)
                _query_grads(part, prefix, query, dquery, dlog)
            if c < chunks - 1 or not ends_free:
                leaving = state_grads[b, c, h]
                _transpose(state_t, leaving)
                part[:] = 0
                matmul_add(part, xt, state_t)
                _key_grads(part, suffix, dt, key, scaled, dkey, dstep, kept)
                matmul_add(dxt, scaled, leaving)
                if c > 0 or not starts_empty:
                    carried = total * _dot(states[b, c, h], leaving)
            _log_decay_grads(dlog, kept, carried)
            dA[b, c, h] = (dlog * dt).sum()
            for t in range(rows):
                ddt[b, start + t, h] = dstep[t] + A[h] * dlog[t]
                for p in range(width):
                    dx[b, start + t, h, p] = dxt[t, p]
            if h % per_group == per_group - 1:
                matmul_add_causal(dquery, dscores, key)
                matmul_add_upper(dkey, dscores.T, query)
                for t in range(rows):
                    for n in range(n_state):
                        dB[b, start + t, g, n] = dkey[t, n]
                        dC[b, start + t, g, n] = dquery[t, n]
