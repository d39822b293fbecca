"""Graph attention on the CPU: two fused Numba kernels as torch custom ops.

The forward keeps the log-sum-exp of each row, and the backward makes the probabilities again from
it. The backward walks the graph twice: by rows for dq and the scores' gradient, then by keys, over
the reversed edges, for dk and dv. Nothing is added to by two threads.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from state_core.errors import InputError
from state_core.ops.graph_attention import kernels
from state_core.ops.graph_attention.buffers import at_least_single, gradients, outputs
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.reverse_edges import reverse_edges

# Heads whose probabilities and their gradients fit in this many bytes go through the backward's
# two walks together: few enough to stay in the cache, enough to keep every core busy.
SCRATCH_BYTES = 4 << 20

# A table whose heads lie within tokens is copied, head after head, if it spans more than this: a
# head's rows then share cache sets and pages with nobody's, and gathering them is up to 1.6 times
# faster. A smaller one is in the cache anyway.
SPREAD_BYTES = 4 << 20

# A head whose keys and values span more is not in the cache: rows are asked for in advance.
FAR_BYTES = 24 << 20

Strides = tuple[np.uint64, np.uint64, np.uint64]


def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `state_core.ops.graph_attention`; always with the log-sum-exp."""
    dtype = q.dtype
    q, k, v, bias = at_least_single(q, k, v, bias)
    out, lse = _forward(q, k, v, neighbors, counts, bias, scale)
    return out.to(dtype), lse


@torch.library.custom_op("state_core::graph_attention", mutates_args=(), device_types="cpu")
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = outputs(q, v)
    match_torch_threads()
    valid = kernels.forward(
        *_rows(q),
        *_rows(_gathered(k, neighbors)),
        *_rows(_gathered(v, neighbors)),
        neighbors.contiguous().numpy(),
        counts.contiguous().numpy(),
        *_rows(_or_empty(bias, q)),
        lse.numpy().dtype.type(scale),
        *_rows(out),
        lse.numpy(),
        np.uint64(k.shape[2]),
        np.uint64(q.shape[3]),
        np.uint64(v.shape[3]),
        torch.get_num_threads(),
        _far(k, v),
    )
    if not valid:
        edges, sources = neighbors.shape[2], k.shape[2]
        raise InputError(f"counts must be within 0 … {edges}, neighbors within 0 … {sources - 1}")
    return out, lse


@_forward.register_fake
def _forward_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs(q, v)


@torch.library.custom_op(
    "state_core::graph_attention_backward", mutates_args=(), device_types="cpu"
)
def _backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dq, dk, dv, d_bias = gradients(q, k, v, bias)
    starts, edges = reverse_edges(neighbors, counts, k.shape[2])
    batch, heads, rows, _ = q.shape
    row_bytes = 2 * neighbors.shape[2] * q.element_size()
    group = max(1, min(batch * heads, SCRATCH_BYTES // max(1, rows * row_bytes)))
    match_torch_threads()
    kernels.backward(
        *_rows(_gathered(d_out, neighbors)),
        *_rows(_gathered(q, neighbors)),
        *_rows(_gathered(k, neighbors)),
        *_rows(_gathered(v, neighbors)),
        neighbors.contiguous().numpy(),
        counts.contiguous().numpy(),
        *_rows(_or_empty(bias, q)),
        lse.numpy(),
        (lse.new_empty(0, 0, 0) if d_lse is None else d_lse.contiguous()).numpy(),
        starts.numpy(),
        edges.numpy(),
        lse.numpy().dtype.type(scale),
        *_rows(dq),
        *_rows(dk),
        *_rows(dv),
        d_bias.numpy(),
        np.uint64(k.shape[2]),
        np.uint64(q.shape[3]),
        np.uint64(v.shape[3]),
        group,
        torch.get_num_threads(),
        _far(k, v),
    )
    return dq, dk, dv, d_bias


@_backward.register_fake
def _backward_fake(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return gradients(q, k, v, bias)


def _setup_context(ctx, inputs, output) -> None:
    q, k, v, neighbors, counts, bias, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, neighbors, counts, bias, output[1])
    ctx.set_materialize_grads(False)  # most callers leave the log-sum-exp alone


def _differentiate(ctx, d_out, d_lse):
    q, k, v, neighbors, counts, bias, lse = ctx.saved_tensors
    d_out = torch.zeros_like(outputs(q, v)[0]) if d_out is None else d_out
    dq, dk, dv, d_bias = _backward(d_out, d_lse, q, k, v, neighbors, counts, bias, lse, ctx.scale)
    return dq, dk, dv, None, None, None if bias is None else d_bias, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _gathered(x: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """The table [B, H, S, D], or a copy of it whose heads lie apart where that pays."""
    spread = x.shape[2] * x.stride(2) * x.element_size()
    # A few rows that decode read less of the table than a copy of it would.
    often = neighbors.shape[1] * neighbors.shape[2] > x.shape[2]
    return x.contiguous() if often and x.stride(1) < x.stride(2) and spread > SPREAD_BYTES else x


def _far(k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether gathered rows of one head come from memory."""
    return k.shape[2] * (k.shape[3] + v.shape[3]) * k.element_size() > FAR_BYTES


def _rows(x: torch.Tensor) -> tuple[npt.NDArray[np.floating], Strides]:
    """The memory of a [B, H, T, ·] tensor, and its strides, rows contiguous: no copy for views."""
    if x.stride(3) != 1 and x.shape[3] != 1:
        x = x.contiguous()
    span = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    flat = torch.as_strided(x, (span if x.numel() else 0,), (1,)).numpy()
    b, h, t, _ = x.stride()
    return flat, (np.uint64(b), np.uint64(h), np.uint64(t))


def _or_empty(bias: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
    return q.new_empty(0, 0, 0, 0) if bias is None else bias
