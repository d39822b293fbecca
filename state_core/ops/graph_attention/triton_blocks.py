"""Graph attention by tiles on the matrix unit: a program per block of rows, or of keys, and head.

A program walks the tiles of its block (`tile_list.py`) with an online softmax: the products of a
whole tile, then the entries that are no edge struck out. The gradients of q and bias go by blocks
of rows, those of k and v by blocks of keys; both make p again from the log-sum-exp.
An edge lies in one tile, so each entry of d_bias has one writer: no atomics anywhere. A product
of a whole tile also multiplies by 0: where v or a gradient is infinite or NaN, all rows of its
tiles become NaN.

Where in its row an edge lies is told by the count of the bits below its own in the tile's word.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row,
R and C blocks of rows and keys; a tile is [ROWS, COLUMNS], in the walk by keys [COLUMNS, ROWS].
A tensor of heads comes with its strides: x_b, x_h and x_t, of batch, head and token.
"""

# Triton compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

import torch
import triton
import triton.language as tl

from state_core.ops.graph_attention.buffers import gradients, outputs, rows_contiguous
from state_core.ops.graph_attention.tile_list import COLUMNS, ROWS

WARPS = 4
STAGES = 2
SMALLEST = 16  # what the matrix unit takes
SIZES = ["H", "T", "S", "E", "R", "C"]  # no kernel is compiled anew for another length


def forward(q, k, v, tiles, bias, scale):
    out, lse = outputs(q, v)
    batch, heads, rows, _ = q.shape
    blocks = triton.cdiv(rows, ROWS)
    q, k, v = rows_contiguous(q), rows_contiguous(k), rows_contiguous(v)
    forward_kernel[(batch * heads * blocks,)](
        q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3], bias, *_steps(bias),
        tiles.words, tiles.firsts, tiles.slots, tiles.row_starts, tiles.key_blocks, scale,
        out, *out.stride()[:3], lse, heads, rows, k.shape[2], tiles.slots.shape[2], blocks,
        HAS_BIAS=bias is not None, **block_sizes(q, v), num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out, lse


def backward(d_out, d_lse, q, k, v, tiles, bias, out, lse, scale):
    dq, dk, dv, d_bias = gradients(q, k, v, bias)
    d_bias.zero_()
    batch, heads, rows, _ = q.shape
    sources, edges = k.shape[2], tiles.slots.shape[2]
    g, q, k, v = (rows_contiguous(x) for x in (d_out, q, k, v))
    delta = torch.empty_like(lse)
    has_bias, blocks = bias is not None, block_sizes(q, v)
    row_blocks, key_blocks = triton.cdiv(rows, ROWS), triton.cdiv(sources, COLUMNS)
    rows_kernel[(batch * heads * row_blocks,)](
        g, *g.stride()[:3], q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3],
        bias, *_steps(bias), tiles.words, tiles.firsts, tiles.slots, tiles.row_starts,
        tiles.key_blocks, scale, out, *out.stride()[:3], lse, d_lse, delta,
        dq, *dq.stride()[:3], d_bias, heads, rows, sources, edges, row_blocks,
        HAS_BIAS=has_bias, HAS_D_LSE=d_lse is not None, **blocks,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    keys_kernel[(batch * heads * key_blocks,)](
        g, *g.stride()[:3], q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3],
        bias, *_steps(bias), tiles.words, tiles.firsts, tiles.slots, tiles.key_starts,
        tiles.by_key, tiles.row_blocks, scale, lse, delta, dk, *dk.stride()[:3],
        dv, *dv.stride()[:3], heads, rows, sources, edges, key_blocks,
        HAS_BIAS=has_bias, **blocks, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return dq, dk, dv, d_bias


def _steps(bias):
    return (0, 0, 0, 0) if bias is None else bias.stride()


def block_sizes(q, v):
    width, v_width = q.shape[3], v.shape[3]
    return {
        "D": width,
        "M": v_width,
        "BLOCK_D": max(SMALLEST, triton.next_power_of_2(width)),
        "BLOCK_M": max(SMALLEST, triton.next_power_of_2(v_width)),
        "ROWS": ROWS,
        "COLUMNS": COLUMNS,
    }


@triton.jit
def _place(blocks, H):
    """The block, batch row and head of this program; blocks of a head run side by side."""
    pair = tl.program_id(0) // blocks
    return tl.program_id(0) % blocks, (pair // H).to(tl.int64), (pair % H).to(tl.int64)


@triton.jit
def _table(x, first, offset, step, tokens, column, width):
    """x[first + offset, column], zeros outside; the two indices broadcast against each other."""
    inside = (first + offset < tokens) & (column < width)
    return tl.load(x + first.to(tl.int64) * step + (offset * step + column), mask=inside, other=0.0)


@triton.jit
def _store(x, value, first, offset, step, tokens, column, width):
    inside = (first + offset < tokens) & (column < width)
    at = x + first.to(tl.int64) * step + (offset * step + column)
    tl.store(at, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _vector(x, first, offset, tokens):
    return tl.load(x + first + offset, mask=first + offset < tokens, other=0.0)


@triton.jit
def _finite(shift):
    """A log-sum-exp to subtract: 0 for a row of nothing, which has none."""
    return tl.where(shift == float("-inf"), 0.0, shift)


@triton.jit
def _bits(word):
    """How many bits of a word are set: sums of neighbouring fields, ever wider."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return (((word + (word >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t, bias, bias_b, bias_h, bias_t, bias_e,
    words, firsts, slots, row_starts, key_blocks, scale, out, out_b, out_h, out_t, lse,
    H, T, S, E, R, HAS_BIAS: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out and lse of one block of rows and head."""
    block, b, h = _place(R, H)
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    i = block * ROWS
    query = _table(q + b * q_b + h * q_h, i, r[:, None], q_t, T, d[None, :], D)
    keys, values = k + b * k_b + h * k_h, v + b * v_b + h * v_h
    slots += (b * T + i) * E
    if HAS_BIAS:
        bias += b * bias_b + h * bias_h + i.to(tl.int64) * bias_t
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, BLOCK_M], tl.float32)
    last = tl.load(row_starts + b * R + block + 1)
    for tile in range(tl.load(row_starts + b * R + block), last):
        j = tl.load(key_blocks + tile) * COLUMNS
        key = _table(keys, j, c[None, :], k_t, S, d[:, None], D)
        value = _table(values, j, c[:, None], v_t, S, m[None, :], M)
        word = tl.load(words + tile * ROWS + r)
        present = ((word[:, None] >> c[None, :]) & 1) != 0
        s = tl.dot(query, key, input_precision="ieee") * scale
        if HAS_BIAS:
            first = tl.load(firsts + tile * ROWS + r) + r * E
            below = _bits(word[:, None] & ((1 << c) - 1)[None, :])
            e = tl.load(slots + (first[:, None] + below), mask=present, other=0)
            at = bias + (r[:, None] * bias_t + e * bias_e)
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        s = tl.where(present, s, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        shift = _finite(higher)
        p = tl.exp(s - shift[:, None])
        shrink = tl.exp(peak - shift)
        total = total * shrink + tl.sum(p, 1)
        mean = tl.dot(p.to(value.dtype), value, mean * shrink[:, None], input_precision="ieee")
        peak = higher
    nothing = total == 0.0
    total = tl.where(nothing, 1.0, total)
    _store(
        out + b * out_b + h * out_h, mean / total[:, None], i, r[:, None], out_t, T, m[None, :], M
    )
    answer = tl.where(nothing, float("-inf"), peak + tl.log(total))
    tl.store(lse + (b * H + h) * T + i + r, answer, mask=i + r < T)


@triton.jit(do_not_specialize=SIZES)
def rows_kernel(
    g, g_b, g_h, g_t, q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t,
    bias, bias_b, bias_h, bias_t, bias_e, words, firsts, slots, row_starts, key_blocks, scale,
    out, out_b, out_h, out_t, lse, d_lse, delta, dq, dq_b, dq_h, dq_t, d_bias, H, T, S, E, R,
    HAS_BIAS: tl.constexpr, HAS_D_LSE: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dq, d_bias and delta = Σ p dp - d_lse of one block of rows and head."""
    block, b, h = _place(R, H)
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    i = block * ROWS
    query = _table(q + b * q_b + h * q_h, i, r[:, None], q_t, T, d[None, :], D)
    grad = _table(g + b * g_b + h * g_h, i, r[:, None], g_t, T, m[None, :], M)
    result = _table(out + b * out_b + h * out_h, i, r[:, None], out_t, T, m[None, :], M)
    head = (b * H + h) * T
    average = tl.sum(grad.to(tl.float32) * result.to(tl.float32), 1)
    if HAS_D_LSE:
        average -= _vector(d_lse + head, i, r, T)
    tl.store(delta + head + i + r, average, mask=i + r < T)
    shift = _finite(_vector(lse + head, i, r, T))
    keys, values = k + b * k_b + h * k_h, v + b * v_b + h * v_h
    slots += (b * T + i) * E
    if HAS_BIAS:
        bias += b * bias_b + h * bias_h + i.to(tl.int64) * bias_t
        d_bias += (head + i) * E
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    last = tl.load(row_starts + b * R + block + 1)
    for tile in range(tl.load(row_starts + b * R + block), last):
        j = tl.load(key_blocks + tile) * COLUMNS
        key = _table(keys, j, c[:, None], k_t, S, d[None, :], D)
        value = _table(values, j, c[None, :], v_t, S, m[:, None], M)
        word = tl.load(words + tile * ROWS + r)
        present = ((word[:, None] >> c[None, :]) & 1) != 0
        s = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        dp = tl.dot(grad, value, input_precision="ieee")
        if HAS_BIAS:
            first = tl.load(firsts + tile * ROWS + r) + r * E
            below = _bits(word[:, None] & ((1 << c) - 1)[None, :])
            e = tl.load(slots + (first[:, None] + below), mask=present, other=0)
            at = bias + (r[:, None] * bias_t + e * bias_e)
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        ds = tl.where(present, tl.exp(s - shift[:, None]) * (dp - average[:, None]), 0.0)
        if HAS_BIAS:
            at = d_bias + (r[:, None] * E + e)
            tl.store(at, ds.to(d_bias.dtype.element_ty), mask=present)
        total = tl.dot(ds.to(key.dtype), key, total, input_precision="ieee")
    _store(dq + b * dq_b + h * dq_h, total * scale, i, r[:, None], dq_t, T, d[None, :], D)


@triton.jit(do_not_specialize=SIZES)
def keys_kernel(
    g, g_b, g_h, g_t, q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t,
    bias, bias_b, bias_h, bias_t, bias_e, words, firsts, slots, key_starts, by_key, row_blocks,
    scale, lse, delta, dk, dk_b, dk_h, dk_t, dv, dv_b, dv_h, dv_t, H, T, S, E, C,
    HAS_BIAS: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of keys and head."""
    block, b, h = _place(C, H)
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    j = block * COLUMNS
    key = _table(k + b * k_b + h * k_h, j, c[:, None], k_t, S, d[None, :], D)
    value = _table(v + b * v_b + h * v_h, j, c[:, None], v_t, S, m[None, :], M)
    queries, grads = q + b * q_b + h * q_h, g + b * g_b + h * g_h
    head = (b * H + h) * T
    if HAS_BIAS:
        bias += b * bias_b + h * bias_h
    of_key = tl.zeros([COLUMNS, BLOCK_D], tl.float32)
    of_value = tl.zeros([COLUMNS, BLOCK_M], tl.float32)
    last = tl.load(key_starts + b * C + block + 1)
    for n in range(tl.load(key_starts + b * C + block), last):
        tile = tl.load(by_key + n)
        i = tl.load(row_blocks + n) * ROWS
        query = _table(queries, i, r[:, None], q_t, T, d[None, :], D)
        grad = _table(grads, i, r[:, None], g_t, T, m[None, :], M)
        word = tl.load(words + tile * ROWS + r)
        present = ((word[None, :] >> c[:, None]) & 1) != 0
        s = tl.dot(key, tl.trans(query), input_precision="ieee") * scale
        if HAS_BIAS:
            first = tl.load(firsts + tile * ROWS + r) + r * E
            below = _bits(word[None, :] & ((1 << c) - 1)[:, None])
            at = slots + (b * T + i) * E + (first[None, :] + below)
            e = tl.load(at, mask=present, other=0)
            at = bias + i.to(tl.int64) * bias_t + (r[None, :] * bias_t + e * bias_e)
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        shift = _finite(_vector(lse + head, i, r, T))
        p = tl.where(present, tl.exp(s - shift[None, :]), 0.0)
        of_value = tl.dot(p.to(grad.dtype), grad, of_value, input_precision="ieee")
        dp = tl.dot(value, tl.trans(grad), input_precision="ieee")
        ds = tl.where(present, p * (dp - _vector(delta + head, i, r, T)[None, :]), 0.0)
        of_key = tl.dot(ds.to(query.dtype), query, of_key, input_precision="ieee")
    _store(dk + b * dk_b + h * dk_h, of_key * scale, j, c[:, None], dk_t, S, d[None, :], D)
    _store(dv + b * dv_b + h * dv_h, of_value, j, c[:, None], dv_t, S, m[None, :], M)
