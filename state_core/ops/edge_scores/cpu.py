"""Rows in parallel forward; backward by rows for du and by reversed edges for dkeys, no atomics.

B batch, T rows, S keys, d features in N blocks, E edges of a row. Flat arrays: u [B, T, d]; keys:
batch row b starts at b * key_stride, then [S, d]; neighbors [B, T, E]; counts [B, T]; scores and
their gradient [B, T, E, N].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.ops.graph_memo import check_edges
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.reverse_edges import reverse_edges
from state_core.ops.score_tile import CHAINS, dots, flat_rows

# Multiply-adds that a thread is worth waking for: where others use the cores too, the slowest of
# several threads keeps a short call waiting.
GRAIN = 1 << 20


@torch.library.custom_op("state_core::edge_scores", mutates_args=())
def edge_scores(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor, blocks: int) -> Tensor:
    batch, rows, d = u.shape
    width = neighbors.shape[2]
    scores = u.new_empty(*neighbors.shape, blocks)
    flat_keys, key_stride = flat_rows(keys)
    match_torch_threads(1 + neighbors.numel() * d // GRAIN)
    valid = _forward(
        u.contiguous().view(-1).numpy(),
        neighbors.contiguous().view(-1).numpy(),
        counts.contiguous().view(-1).numpy(),
        flat_keys,
        key_stride,
        (batch, rows, keys.shape[1], d, width, blocks),
        scores.view(-1).numpy(),
    )
    if not valid:
        check_edges(neighbors, counts, keys.shape[1])  # raises what naive raises
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
        (batch, rows, keys.shape[1], d, width, grad.shape[3]),
        grad_u.view(-1).numpy(),
        grad_keys.view(-1).numpy(),
    )
    return grad_u, grad_keys


@edge_scores.register_fake
def _(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor, blocks: int) -> Tensor:
    return u.new_empty(*neighbors.shape, blocks)


@edge_scores_backward.register_fake
def _(
    grad: Tensor, u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), keys.new_empty(keys.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
    grad_u, grad_keys = edge_scores_backward(grad, *ctx.saved_tensors)
    return grad_u, None, None, grad_keys, None


edge_scores.register_autograd(_differentiate, setup_context=_save)


@njit(parallel=True, cache=True)
def _forward(
    u: Any, neighbors: Any, counts: Any, keys: Any, key_stride: int, sizes: Any, scores: Any
) -> bool:
    batch, rows, key_count, d, width, blocks = sizes
    bad = 0
    for row in prange(batch * rows):
        i = np.int64(row)
        table = neighbors[i * width : (i + 1) * width]
        out = scores[i * width * blocks : (i + 1) * width * blocks]
        count = counts[i]
        ok = _within(table, count, key_count)
        if ok:
            base = i // rows * key_stride
            _score_row(u, i * d, keys, base, d, blocks, table[:count], out)
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
def _score_row(
    u: Any, row: int, keys: Any, base: int, d: int, blocks: int, table: Any, out: Any
) -> None:
    last = table.size - 1
    part = d // blocks
    out[table.size * blocks :] = 0
    for first in range(0, table.size, CHAINS):
        for n in range(blocks):
            block = n * part
            at = base + block
            targets = (
                at + np.int64(table[first]) * d,
                at + np.int64(table[min(first + 1, last)]) * d,
                at + np.int64(table[min(first + 2, last)]) * d,
                at + np.int64(table[min(first + 3, last)]) * d,
                at + np.int64(table[min(first + 4, last)]) * d,
                at + np.int64(table[min(first + 5, last)]) * d,
                at + np.int64(table[min(first + 6, last)]) * d,
                at + np.int64(table[min(first + 7, last)]) * d,
            )
            found = dots(u, row + block, keys, targets, part)
            for m in range(min(CHAINS, table.size - first)):
                # -0 becomes 0, as in causal_topk
                out[(first + m) * blocks + n] = found[m] + out.dtype.type(0)


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
    batch, rows, key_count, d, width, blocks = sizes
    part = d // blocks
    for row in prange(batch * rows):
        i = np.int64(row)
        base = i // rows * key_stride
        for n in range(blocks):
            block = n * part
            total = grad_u[i * d + block : i * d + block + part]
            total[:] = 0
            for e in range(i * width, i * width + counts[i]):
                weight = grad[e * blocks + n]
                _add(total, weight, keys, base + np.int64(neighbors[e]) * d + block)
    for key in prange(batch * key_count):
        b, j = divmod(np.int64(key), key_count)
        table = b * rows * width
        for n in range(blocks):
            block = n * part
            own = np.int64(key) * d + block
            total = grad_keys[own : own + part]
            total[:] = 0
            for place in range(starts[b, j], starts[b, j + 1]):
                edge = np.int64(edges[table + place])
                weight = grad[(table + edge) * blocks + n]
                _add(total, weight, u, (b * rows + edge // width) * d + block)


@njit(fastmath={"contract"})
def _add(total: Any, weight: Any, rows: Any, start: int) -> None:
    """total += weight * rows[start : start + total.size]"""
    row = rows[start : start + total.size]
    for c in range(total.size):
        total[c] += weight * row[c]
