"""Triton kernels of the chunked SSD. A program is one chunk of one head of one batch row.

Shapes: B batch, T tokens, H heads, P head dim, G groups, N state, c chunks of Q tokens.
x [B,T,H,P], B and C [B,T,G,N] come with their strides (batch, token, head), the last dimension
dense; dt [B,T,H], y and the gradients are contiguous. A state is [P,N], in float32.

Within a chunk, log_decay_t = A sum_{s<=t} dt_s (as a power of 2). Every decay is 2 to a difference
that is not positive: prefix_t from the chunk's start to t, suffix_u from u to its end, between_tu
from u to t. Products run on the matrix unit in the dtype of x and add up in float32; for float32
they are exact (ieee), and run on the ordinary units.

No program adds to what another writes: what heads share (dB, dC) and what chunks share (dA, dD)
leaves as one share each, and torch adds the shares.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(x, token_stride, q, inside, column, WIDTH: tl.constexpr):
    """A chunk's rows by columns, [Q,columns], zeros beyond the sequence and the width."""
    mask = inside[:, None] & (column[None, :] < WIDTH)
    return tl.load(x + q[:, None] * token_stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def _state(states, p, n, P: tl.constexpr, N: tl.constexpr):
    """A block of a state [P,N], zeros beyond."""
    mask = (p[:, None] < P) & (n[None, :] < N)
    return tl.load(states + p[:, None] * N + n[None, :], mask=mask, other=0.0)


@triton.jit
def _dot(a, b, total):
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _steps(dt, A, line, heads, h, inside):
    """dt [Q] of a head, its log decay, and the log decay of the whole chunk."""
    step = tl.load(dt + line * heads + h, mask=inside, other=0.0).to(tl.float32)
    rate = tl.load(A + h).to(tl.float32) * _LOG2_E
    log_decay = tl.cumsum(step * rate, 0)
    q = tl.arange(0, line.shape[0])
    return step, log_decay, tl.sum(tl.where(q == line.shape[0] - 1, log_decay, 0.0), 0)


@triton.jit
def _between(log_decay):
    """[t,u]: the decay from u to t, and 0 for u after t."""
    q = tl.arange(0, log_decay.shape[0])
    causal = q[:, None] >= q[None, :]
    power = tl.where(causal, log_decay[:, None] - log_decay[None, :], 0.0)
    return tl.where(causal, tl.exp2(power), 0.0)


@triton.jit
def chunk_states(
    x, x_batch, x_token, x_head, B, B_batch, B_token, B_head, dt, A, states, log_totals,
    T, heads, heads_per_group, chunks,
    LEAVING: tl.constexpr, P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """states [B,c,H,P,N] and log_totals [B,c,H].

    LEAVING: sum_u suffix_u dt_u x_u B_u^T, what a chunk adds to the state that leaves it.
    Otherwise sum_t prefix_t x_t B_t^T; with dy for x and C for B, what a chunk alone asks of the
    state that enters it.
    """
    k, h, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, CHUNK)
    start = k * CHUNK
    inside = start + q < T
    step, log_decay, log_total = _steps(dt, A, b * T + start + q, heads, h, inside)
    tl.store(log_totals + (b * chunks + k) * heads + h, log_total)
    weight = tl.exp2(log_decay)
    if LEAVING:
        weight = tl.exp2(log_total - log_decay) * step
    x += b * x_batch + start * x_token + h * x_head
    B += b * B_batch + start * B_token + (h // heads_per_group) * B_head
    states += ((b * chunks + k) * heads + h) * P * N
    for start_n in range(0, N, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        key = _tile(B, B_token, q, inside, n, N)
        key = (key * weight[:, None]).to(x.dtype.element_ty)
        for start_p in range(0, P, BLOCK_P):
            p = start_p + tl.arange(0, BLOCK_P)
            value = _tile(x, x_token, q, inside, p, P)
            own = _dot(tl.trans(value), key, tl.zeros([BLOCK_P, BLOCK_N], dtype=tl.float32))
            mask = (p[:, None] < P) & (n[None, :] < N)
            tl.store(states + p[:, None] * N + n[None, :], own, mask=mask)


@triton.jit
def pass_states(
    states, log_totals, initial, final, heads, chunks, size,
    BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From what each chunk adds, in place, the states [B,c,H,size] that chunks start from.

    The first starts from `initial` [B,H,size], or the last if BACKWARD; the other end is `final`.
    """
    h, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = at < size
    carry = tl.load(initial + (b * heads + h) * size + at, mask=real, other=0.0)
    for i in range(chunks):
        k = chunks - 1 - i if BACKWARD else i
        line = (b * chunks + k) * heads + h
        place = states + line * size + at
        own = tl.load(place, mask=real, other=0.0)
        tl.store(place, carry, mask=real)
        carry = tl.exp2(tl.load(log_totals + line)) * carry + own
    tl.store(final + (b * heads + h) * size + at, carry, mask=real)


@triton.jit
def chunk_outputs(
    x, x_batch, x_token, x_head, B, B_batch, B_token, B_head, C, C_batch, C_token, C_head,
    dt, A, D, states, y, T, heads, heads_per_group, chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y_t = sum_{u<=t} (C_t . B_u) between_tu dt_u x_u + prefix_t S C_t + D x_t."""
    k, h, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, CHUNK)
    start = k * CHUNK
    inside = start + q < T
    step, log_decay, _ = _steps(dt, A, b * T + start + q, heads, h, inside)
    prefix = tl.exp2(log_decay)
    skip = tl.load(D + h).to(tl.float32)
    x += b * x_batch + start * x_token + h * x_head
    B += b * B_batch + start * B_token + (h // heads_per_group) * B_head
    C += b * C_batch + start * C_token + (h // heads_per_group) * C_head
    y += ((b * T + start) * heads + h) * P
    states += ((b * chunks + k) * heads + h) * P * N
    low = x.dtype.element_ty

    scores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    for start_n in range(0, N, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        query = _tile(C, C_token, q, inside, n, N).to(low)
        key = _tile(B, B_token, q, inside, n, N).to(low)
        scores = _dot(query, tl.trans(key), scores)
    mix = (scores * _between(log_decay) * step[None, :]).to(low)
    for start_p in range(0, P, BLOCK_P):
        p = start_p + tl.arange(0, BLOCK_P)
        out = tl.zeros([CHUNK, BLOCK_P], dtype=tl.float32)
        for start_n in range(0, N, BLOCK_N):
            n = start_n + tl.arange(0, BLOCK_N)
            query = _tile(C, C_token, q, inside, n, N).to(low)
            out = _dot(query, tl.trans(_state(states, p, n, P, N).to(low)), out)
        value = _tile(x, x_token, q, inside, p, P)
        out = _dot(mix, value, out * prefix[:, None]) + skip * value
        mask = inside[:, None] & (p[None, :] < P)
        tl.store(y + q[:, None] * heads * P + p[None, :], out, mask=mask)


@triton.jit
def input_grads(
    dy, x, x_batch, x_token, x_head, B, B_batch, B_token, B_head, C, C_batch, C_token, C_head,
    dt, A, D, leaving, dx, dD, T, heads, heads_per_group, chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx_u = dt_u (sum_{t>=u} (C_t . B_u) between_tu dy_t + suffix_u dS B_u) + D dy_u, with dS in
    `leaving` [B,c,H,P,N] the gradient of the state that leaves; dD [B,c,H]."""
    k, h, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, CHUNK)
    start = k * CHUNK
    inside = start + q < T
    step, log_decay, log_total = _steps(dt, A, b * T + start + q, heads, h, inside)
    suffix = tl.exp2(log_total - log_decay)
    skip = tl.load(D + h).to(tl.float32)
    x += b * x_batch + start * x_token + h * x_head
    B += b * B_batch + start * B_token + (h // heads_per_group) * B_head
    C += b * C_batch + start * C_token + (h // heads_per_group) * C_head
    dy += ((b * T + start) * heads + h) * P
    dx += ((b * T + start) * heads + h) * P
    leaving += ((b * chunks + k) * heads + h) * P * N
    low = x.dtype.element_ty

    scores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    for start_n in range(0, N, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        query = _tile(C, C_token, q, inside, n, N).to(low)
        key = _tile(B, B_token, q, inside, n, N).to(low)
        scores = _dot(query, tl.trans(key), scores)
    mix = tl.trans((scores * _between(log_decay) * step[None, :]).to(low))
    dskip = 0.0
    for start_p in range(0, P, BLOCK_P):
        p = start_p + tl.arange(0, BLOCK_P)
        out = tl.zeros([CHUNK, BLOCK_P], dtype=tl.float32)
        for start_n in range(0, N, BLOCK_N):
            n = start_n + tl.arange(0, BLOCK_N)
            key = _tile(B, B_token, q, inside, n, N).to(low)
            out = _dot(key, tl.trans(_state(leaving, p, n, P, N).to(low)), out)
        grad = _tile(dy, heads * P, q, inside, p, P)
        value = _tile(x, x_token, q, inside, p, P)
        out = _dot(mix, grad, out * (suffix * step)[:, None]) + skip * grad
        mask = inside[:, None] & (p[None, :] < P)
        tl.store(dx + q[:, None] * heads * P + p[None, :], out, mask=mask)
        dskip += tl.sum(tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1), 0)
    tl.store(dD + (b * chunks + k) * heads + h, dskip)


@triton.jit
def other_grads(
    dy, x, x_batch, x_token, x_head, B, B_batch, B_token, B_head, C, C_batch, C_token, C_head,
    dt, A, entering, leaving, ddt, dA, dB, dC, T, heads, heads_per_group, chunks,
    P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """ddt [B,T,H], dA [B,c,H], and each head's share of dB and dC, [B,T,H,N].

    A decay acts on what later tokens read, within the chunk and of the state that entered; on what
    earlier tokens leave; and on what the chunk lets through. These are summed from their own sides,
    so that nothing cancels. A token's own pair knows no decay and is left out.
    """
    k, h, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, CHUNK)
    start = k * CHUNK
    inside = start + q < T
    line = b * T + start + q
    step, log_decay, log_total = _steps(dt, A, line, heads, h, inside)
    prefix, suffix = tl.exp2(log_decay), tl.exp2(log_total - log_decay)
    x += b * x_batch + start * x_token + h * x_head
    B += b * B_batch + start * B_token + (h // heads_per_group) * B_head
    C += b * C_batch + start * C_token + (h // heads_per_group) * C_head
    dy += ((b * T + start) * heads + h) * P
    place = ((b * chunks + k) * heads + h) * P * N
    low = x.dtype.element_ty

    dmix = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    for start_p in range(0, P, BLOCK_P):
        p = start_p + tl.arange(0, BLOCK_P)
        grad = _tile(dy, heads * P, q, inside, p, P)
        dmix = _dot(grad, tl.trans(_tile(x, x_token, q, inside, p, P)), dmix)
    dmix = dmix * _between(log_decay)
    scores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    for start_n in range(0, N, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        query = _tile(C, C_token, q, inside, n, N).to(low)
        key = _tile(B, B_token, q, inside, n, N).to(low)
        scores = _dot(query, tl.trans(key), scores)
    pairs = dmix * scores
    dscores = (dmix * step[None, :]).to(low)
    dstep = tl.sum(pairs, 0)
    pairs = tl.where(q[:, None] == q[None, :], 0.0, pairs) * step[None, :]
    read = tl.sum(pairs, 1) - tl.sum(pairs, 0)

    written = tl.zeros([CHUNK], dtype=tl.float32)
    let_through = 0.0
    for start_n in range(0, N, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        dquery = tl.zeros([CHUNK, BLOCK_N], dtype=tl.float32)
        dkey = tl.zeros([CHUNK, BLOCK_N], dtype=tl.float32)
        for start_p in range(0, P, BLOCK_P):
            p = start_p + tl.arange(0, BLOCK_P)
            before = _state(entering + place, p, n, P, N)
            after = _state(leaving + place, p, n, P, N)
            let_through += tl.sum(tl.sum(before * after, 1), 0)
            dquery = _dot(_tile(dy, heads * P, q, inside, p, P), before.to(low), dquery)
            dkey = _dot(_tile(x, x_token, q, inside, p, P), after.to(low), dkey)
        query = _tile(C, C_token, q, inside, n, N).to(low)
        key = _tile(B, B_token, q, inside, n, N).to(low)
        dquery = dquery * prefix[:, None]
        dkey = dkey * suffix[:, None]
        read += tl.sum(dquery * query, 1)
        written += tl.sum(dkey * key, 1)
        dquery = _dot(dscores, key, dquery)
        dkey = _dot(tl.trans(dscores), query, dkey * step[:, None])
        share = (line[:, None] * heads + h) * N + n[None, :]
        mask = inside[:, None] & (n[None, :] < N)
        tl.store(dC + share, dquery, mask=mask)
        tl.store(dB + share, dkey, mask=mask)

    kept = written * step
    dlog = tl.cumsum(read, 0, reverse=True) + (tl.cumsum(kept, 0) - kept)
    dlog += let_through * tl.exp2(log_total)
    rate = tl.load(A + h).to(tl.float32)
    tl.store(ddt + line * heads + h, dstep + written + rate * dlog, mask=inside)
    tl.store(dA + (b * chunks + k) * heads + h, tl.sum(dlog * step, 0))
