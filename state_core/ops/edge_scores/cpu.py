"""Rows in parallel forward; backward by rows for du and by reversed edges for dkeys, no atomics.

B batch, T rows, S keys, d features, E edges of a row. Flat arrays: u [B, T, d]; keys: batch row b
starts at b * key_stride, then [S, d]; neighbors, scores [B, T, E]; counts [B, T].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.ops.edge_scores.naive import invalid
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.reverse_edges import reverse_edges
from state_core.ops.score_tile import CHAINS, dots, flat_rows


@torch.library.custom_op("state_core::edge_scores", mutates_args=())
def edge_scores(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> Tensor:
    batch, rows, d = u.shape
    width = neighbors.shape[2]
    scores = u.new_empty(neighbors.shape)
    flat_keys, key_stride = flat_rows(keys)
    match_torch_threads(batch * rows)
    valid = _forward(
        u.contiguous().view(-1).numpy(),
        neighbors.contiguous().view(-1).numpy(),
        counts.contiguous().view(-1).numpy(),
        flat_keys,
        key_stride,
        (batch, rows, keys.shape[1], d, width),
        scores.view(-1).numpy(),
    )
    if not valid:
        raise invalid(width, keys.shape[1])
    return scores


@torch.library.custom_op("state_core::edge_scores_backward", mutates_args=())
def edge_scores_backward(
    grad: Tensor, u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    batch, rows, d = u.shape
    width = neighbors.shape[2]
    grad_u = u.new_empty(u.shape)
    grad_keys = keys.new_empty(keys.shape)
    flat_keys, key_stride = flat_rows(keys)
    starts, edges = reverse_edges(neighbors, counts, keys.shape[1])
    match_torch_threads()
    _backward(
        grad.contiguous().view(-1).numpy(),
        u.contiguous().view(-1).numpy(),
        neighbors.contiguous().view(-1).numpy(),
        counts.contiguous().view(-1).numpy(),
        flat_keys,
        key_stride,
        starts.numpy(),
        edges.view(-1).numpy(),
        (batch, rows, keys.shape[1], d, width),
        grad_u.view(-1).numpy(),
        grad_keys.view(-1).numpy(),
    )
    return grad_u, grad_keys


@edge_scores.register_fake
def _(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> Tensor:
    return u.new_empty(neighbors.shape)


@edge_scores_backward.register_fake
def _(
    grad: Tensor, u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), keys.new_empty(keys.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor]:
    grad_u, grad_keys = edge_scores_backward(grad, *ctx.saved_tensors)
    return grad_u, None, None, grad_keys


edge_scores.register_autograd(_differentiate, setup_context=_save)


@njit(parallel=True, cache=True)
def _forward(
    u: Any, neighbors: Any, counts: Any, keys: Any, key_stride: int, sizes: Any, scores: Any
) -> bool:
    batch, rows, key_count, d, width = sizes
    bad = 0
    for row in prange(batch * rows):
        i = np.int64(row)
        table = neighbors[i * width : (i + 1) * width]
        out = scores[i * width : (i + 1) * width]
        count = counts[i]
        ok = _within(table, count, key_count)
        if ok:
            _score_row(u, i * d, keys, i // rows * key_stride, d, table[:count], out)
        bad += not ok
    return bad == 0


@njit
def _within(table: Any, count: int, key_count: int) -> bool:
    if count < 0 or count > table.size:
        return False
    outside = 0
    for e in range(count):
        outside |= (table[e] < 0) | (table[e] >= key_count)
    return outside == 0


@njit
def _score_row(u: Any, row: int, keys: Any, base: int, d: int, table: Any, out: Any) -> None:
    last = table.size - 1
    out[table.size :] = 0
    for first in range(0, table.size, CHAINS):
        targets = (
            base + np.int64(table[first]) * d,
            base + np.int64(table[min(first + 1, last)]) * d,
            base + np.int64(table[min(first + 2, last)]) * d,
            base + np.int64(table[min(first + 3, last)]) * d,
            base + np.int64(table[min(first + 4, last)]) * d,
            base + np.int64(table[min(first + 5, last)]) * d,
            base + np.int64(table[min(first + 6, last)]) * d,
            base + np.int64(table[min(first + 7, last)]) * d,
        )
        found = dots(u, row, keys, targets, d)
        for n in range(min(CHAINS, table.size - first)):
            out[first + n] = found[n] + out.dtype.type(0)  # -0 becomes 0, as in causal_topk


@njit(parallel=True, cache=True)
def _backward(
    grad: Any,
    u: Any,
    neighbors: Any,
    counts: Any,
    keys: Any,
    key_stride: int,
    starts: Any,
    edges: Any,
    sizes: Any,
    grad_u: Any,
    grad_keys: Any,
) -> None:
    batch, rows, key_count, d, width = sizes
    for row in prange(batch * rows):
        i = np.int64(row)
        base = i // rows * key_stride
        total = grad_u[i * d : (i + 1) * d]
        total[:] = 0
        for e in range(i * width, i * width + counts[i]):
            _add(total, grad[e], keys, base + np.int64(neighbors[e]) * d)
    for key in prange(batch * key_count):
        b, j = divmod(np.int64(key), key_count)
        total = grad_keys[np.int64(key) * d : (np.int64(key) + 1) * d]
        total[:] = 0
        table = b * rows * width
        for place in range(starts[b, j], starts[b, j + 1]):
            edge = np.int64(edges[table + place])
            _add(total, grad[table + edge], u, (b * rows + edge // width) * d)


@njit(fastmath={"contract"})
def _add(total: Any, weight: Any, rows: Any, start: int) -> None:
    """total += weight * rows[start : start + d]"""
    row = rows[start : start + total.size]
    for c in range(total.size):
        total[c] += weight * row[c]
