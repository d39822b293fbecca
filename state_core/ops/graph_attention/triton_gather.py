"""Graph attention by gathering: a program per row, or per key, and head.

The forward and the gradients of q and bias go by rows: a program reads its row's keys and values,
a block of edges at a time. The gradients of k and v go by keys, over the reversed edges. Each sum
has one program and one order: no atomics. Sums are in fp32, on the ordinary units: a row shares no
key with its neighbours that a matrix unit could use.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row.
A tensor of heads comes with its strides: x_b, x_h and x_t, of batch, head and token.
"""

# Triton compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

import torch
import triton
import triton.language as tl

from state_core.ops.graph_attention.buffers import gradients, outputs, rows_contiguous
from state_core.ops.reverse_edges import sorted_reverse_edges

WARPS = 2
TILE = 2048  # entries of a gathered block: 32 edges of 64 features
SIZES = ["H", "T", "S", "E"]  # no kernel is compiled anew for another length


def forward(q, k, v, neighbors, counts, bias, scale):
    out, lse = outputs(q, v)
    batch, heads, rows, _ = q.shape
    q, k, v = rows_contiguous(q), rows_contiguous(k), rows_contiguous(v)
    forward_kernel[(batch * heads * rows,)](
        q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3],
        bias, *_steps(bias), neighbors.contiguous(), counts.contiguous(), scale,
        out, *out.stride()[:3], lse, heads, rows, neighbors.shape[2],
        HAS_BIAS=bias is not None, **block_sizes(q, v), num_warps=WARPS,
    )  # fmt: skip
    return out, lse


def backward(d_out, d_lse, q, k, v, neighbors, counts, bias, out, lse, scale):
    dq, dk, dv, d_bias = gradients(q, k, v, bias)
    d_bias.zero_()
    batch, heads, rows, _ = q.shape
    edges, sources = neighbors.shape[2], k.shape[2]
    g, q, k, v = (rows_contiguous(x) for x in (d_out, q, k, v))
    delta = torch.empty_like(lse)
    has_bias, blocks = bias is not None, block_sizes(q, v)
    rows_kernel[(batch * heads * rows,)](
        g, *g.stride()[:3], q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3],
        bias, *_steps(bias), neighbors.contiguous(), counts.contiguous(), scale,
        out, *out.stride()[:3], lse, d_lse, delta, dq, *dq.stride()[:3], d_bias,
        heads, rows, edges,
        HAS_BIAS=has_bias, HAS_D_LSE=d_lse is not None, **blocks, num_warps=WARPS,
    )  # fmt: skip
    starts, reversed_edges = sorted_reverse_edges(neighbors, counts, sources)
    keys_kernel[(batch * heads * sources,)](
        g, *g.stride()[:3], q, *q.stride()[:3], k, *k.stride()[:3], v, *v.stride()[:3],
        bias, *_steps(bias), starts, reversed_edges, scale, lse, delta,
        dk, *dk.stride()[:3], dv, *dv.stride()[:3], heads, rows, sources, edges,
        HAS_BIAS=has_bias, **blocks, num_warps=WARPS,
    )  # fmt: skip
    return dq, dk, dv, d_bias


def _steps(bias):
    return (0, 0, 0, 0) if bias is None else bias.stride()


def block_sizes(q, v):
    width, v_width = q.shape[3], v.shape[3]
    block_d, block_m = triton.next_power_of_2(width), triton.next_power_of_2(v_width)
    block_e = max(1, TILE // max(block_d, block_m))
    return {
        "D": width, "M": v_width, "BLOCK_D": block_d, "BLOCK_M": block_m, "BLOCK_E": block_e
    }  # fmt: skip


@triton.jit
def _place(tokens, H):
    """The token, batch row and head of this program; tokens of a head run side by side."""
    pair = tl.program_id(0) // tokens
    return tl.program_id(0) % tokens, (pair // H).to(tl.int64), (pair % H).to(tl.int64)


@triton.jit
def _gather(table, index, step, present, column, width):
    """Rows of a table [·, width] in fp32, zeros where nothing is present."""
    inside = present[:, None] & (column < width)[None, :]
    at = index.to(tl.int64)[:, None] * step + column[None, :]
    return tl.load(table + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t, bias, bias_b, bias_h, bias_t, bias_e,
    neighbors, counts, scale, out, out_b, out_h, out_t, lse, H, T, E,
    HAS_BIAS: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """out and lse of one row and head."""
    i, b, h = _place(T, H)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    query = tl.load(q + b * q_b + h * q_h + i * q_t + d, mask=d < D, other=0.0).to(tl.float32)
    keys, values = k + b * k_b + h * k_h, v + b * v_b + h * v_h
    row = b * T + i
    count = tl.load(counts + row)
    peak, total = float("-inf"), 0.0
    mean = tl.zeros([BLOCK_M], tl.float32)
    for first in range(0, count, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        present = e < count
        j = tl.load(neighbors + row * E + e, mask=present, other=0)
        key = _gather(keys, j, k_t, present, d, D)
        value = _gather(values, j, v_t, present, m, M)
        s = tl.sum(query[None, :] * key, 1) * scale
        if HAS_BIAS:
            at = bias + b * bias_b + h * bias_h + i * bias_t + e * bias_e
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        s = tl.where(present, s, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(s - shift)
        shrink = tl.exp(peak - shift)
        total = total * shrink + tl.sum(p, 0)
        mean = mean * shrink + tl.sum(p[:, None] * value, 0)
        peak = higher
    nothing = total == 0.0
    total = tl.where(nothing, 1.0, total)
    at = out + b * out_b + h * out_h + i * out_t + m
    tl.store(at, (mean / total).to(out.dtype.element_ty), mask=m < M)
    answer = tl.where(nothing, float("-inf"), peak + tl.log(total))
    tl.store(lse + (b * H + h) * T + i, answer)


@triton.jit(do_not_specialize=SIZES)
def rows_kernel(
    g, g_b, g_h, g_t, q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t,
    bias, bias_b, bias_h, bias_t, bias_e, neighbors, counts, scale, out, out_b, out_h, out_t,
    lse, d_lse, delta, dq, dq_b, dq_h, dq_t, d_bias, H, T, E,
    HAS_BIAS: tl.constexpr, HAS_D_LSE: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dq, d_bias and delta = Σ p dp - d_lse of one row and head."""
    i, b, h = _place(T, H)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    query = tl.load(q + b * q_b + h * q_h + i * q_t + d, mask=d < D, other=0.0).to(tl.float32)
    grad = tl.load(g + b * g_b + h * g_h + i * g_t + m, mask=m < M, other=0.0).to(tl.float32)
    result = tl.load(out + b * out_b + h * out_h + i * out_t + m, mask=m < M, other=0.0)
    here = (b * H + h) * T + i
    mean = tl.sum(grad * result.to(tl.float32), 0)
    if HAS_D_LSE:
        mean -= tl.load(d_lse + here)
    tl.store(delta + here, mean)
    shift = tl.load(lse + here)
    shift = tl.where(shift == float("-inf"), 0.0, shift)
    keys, values = k + b * k_b + h * k_h, v + b * v_b + h * v_h
    row = b * T + i
    count = tl.load(counts + row)
    total = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, count, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        present = e < count
        j = tl.load(neighbors + row * E + e, mask=present, other=0)
        key = _gather(keys, j, k_t, present, d, D)
        value = _gather(values, j, v_t, present, m, M)
        s = tl.sum(query[None, :] * key, 1) * scale
        if HAS_BIAS:
            at = bias + b * bias_b + h * bias_h + i * bias_t + e * bias_e
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        ds = tl.exp(s - shift) * (tl.sum(grad[None, :] * value, 1) - mean)
        ds = tl.where(present, ds, 0.0)
        if HAS_BIAS:
            tl.store(d_bias + here * E + e, ds.to(d_bias.dtype.element_ty), mask=present)
        total += tl.sum(ds[:, None] * key, 0)
    at = dq + b * dq_b + h * dq_h + i * dq_t + d
    tl.store(at, (total * scale).to(dq.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=SIZES)
def keys_kernel(
    g, g_b, g_h, g_t, q, q_b, q_h, q_t, k, k_b, k_h, k_t, v, v_b, v_h, v_t,
    bias, bias_b, bias_h, bias_t, bias_e, starts, reversed_edges, scale, lse, delta,
    dk, dk_b, dk_h, dk_t, dv, dv_b, dv_h, dv_t, H, T, S, E,
    HAS_BIAS: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dk and dv of one key and head."""
    j, b, h = _place(S, H)
    d, m = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    key = tl.load(k + b * k_b + h * k_h + j * k_t + d, mask=d < D, other=0.0).to(tl.float32)
    value = tl.load(v + b * v_b + h * v_h + j * v_t + m, mask=m < M, other=0.0).to(tl.float32)
    queries, grads = q + b * q_b + h * q_h, g + b * g_b + h * g_h
    head = (b * H + h) * T
    stop = tl.load(starts + b * (S + 1) + j + 1)
    of_key, of_value = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    for first in range(tl.load(starts + b * (S + 1) + j), stop, BLOCK_E):
        n = first + tl.arange(0, BLOCK_E)
        present = n < stop
        edge = tl.load(reversed_edges + b * T * E + n, mask=present, other=0)
        i = edge // E
        query = _gather(queries, i, q_t, present, d, D)
        grad = _gather(grads, i, g_t, present, m, M)
        s = tl.sum(query * key[None, :], 1) * scale
        if HAS_BIAS:
            at = bias + b * bias_b + h * bias_h + i.to(tl.int64) * bias_t + edge % E * bias_e
            s += tl.load(at, mask=present, other=0.0).to(tl.float32)
        shift = tl.load(lse + head + i, mask=present, other=0.0)
        shift = tl.where(shift == float("-inf"), 0.0, shift)
        p = tl.where(present, tl.exp(s - shift), 0.0)
        mean = tl.load(delta + head + i, mask=present, other=0.0)
        ds = tl.where(present, p * (tl.sum(grad * value[None, :], 1) - mean), 0.0)
        of_value += tl.sum(p[:, None] * grad, 0)
        of_key += tl.sum(ds[:, None] * query, 0)
    at = dk + b * dk_b + h * dk_h + j * dk_t + d
    tl.store(at, (of_key * scale).to(dk.dtype.element_ty), mask=d < D)
    at = dv + b * dv_b + h * dv_h + j * dv_t + m
    tl.store(at, of_value.to(dv.dtype.element_ty), mask=m < M)
