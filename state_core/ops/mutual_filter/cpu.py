"""Each token's bar is its own recursion, so tokens that are looked at go in parallel.

Column j scores the new rows t in order, in tiles as in `causal_topk`; only scores that reach its
bar are looked at again. Such a score raises the bar, and keeps the edge t -> j if t chose j.

B batch, T new rows, S keys, d features, K columns. Flat arrays: u [B, T, d]; keys and bars: batch
row b starts at b * stride, then [S, d] and [S, K]; indices, scores, keep [B, T, K].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.score_tile import (
    CHAINS,
    ROWS,
    consecutive,
    dots,
    flat_rows,
    lowest_bit,
    pack_block,
    score_tile,
    tile_keys,
)

TILE = 8 * ROWS  # columns of one tile
FEW = ROWS  # up to so many new rows the keys are read as they lie, CHUNK columns to a task
CHUNK = 2048


@torch.library.custom_op("state_core::mutual_filter", mutates_args=("bars",))
def mutual_filter(
    indices: Tensor,
    scores: Tensor,
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    bars: Tensor,
    exclude: int,
) -> Tensor:
    batch, tokens, d = u.shape
    key_count, width = bars.shape[1:]
    keep = torch.zeros(indices.shape, dtype=torch.bool)
    if keep.numel() == 0:
        return keep
    few = tokens <= FEW
    match_torch_threads(batch * (-(-key_count // CHUNK)) if few else None)
    flat_keys, key_stride = flat_rows(keys)
    flat_bars, bar_stride = flat_rows(bars)
    kernel = _few_rows if few else _columns
    kernel(
        u.contiguous().view(-1).numpy(),
        flat_keys,
        key_stride,
        positions.contiguous().view(-1).numpy(),
        ks.contiguous().view(-1).numpy(),
        flat_bars,
        bar_stride,
        (batch, tokens, key_count, d, width, exclude),
        indices.contiguous().view(-1).numpy(),
        scores.contiguous().view(-1).numpy(),
        keep.view(-1).numpy(),
    )
    return keep


@mutual_filter.register_fake
def _(
    indices: Tensor,
    scores: Tensor,
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    bars: Tensor,
    exclude: int,
) -> Tensor:
    return indices.new_empty(indices.shape, dtype=torch.bool)


@njit
def _start_bars(
    positions: Any, ks: Any, bars: Any, bar_stride: int, sizes: Any, scores: Any
) -> None:
    """A new token begins with the scores of its own list, ascending."""
    batch, rows, _, _, width, _ = sizes
    for i in range(batch * rows):
        if positions[i] < 0:
            continue
        own = i // rows * bar_stride + positions[i] * width
        for rank in range(width):
            score = scores[i * width + rank] if rank < ks[i] else np.inf
            bars[own + (ks[i] - 1 - rank if rank < ks[i] else rank)] = score


@njit
def _meet(
    bars: Any, own: int, width: int, score: Any, indices: Any, keep: Any, row: int, j: int
) -> None:
    """A token whose score reaches the bar of j: keep its edge to j, if any, and raise the bar."""
    for e in range(row, row + width):
        if indices[e] == j:
            keep[e] = True
    slot = own
    if score <= bars[slot]:
        return
    while slot + 1 < own + width and bars[slot + 1] < score:
        bars[slot] = bars[slot + 1]
        slot += 1
    bars[slot] = score


@njit(parallel=True, cache=True)
def _columns(
    u: Any,
    keys: Any,
    key_stride: int,
    positions: Any,
    ks: Any,
    bars: Any,
    bar_stride: int,
    sizes: Any,
    indices: Any,
    scores: Any,
    keep: Any,
) -> None:
    batch, rows, key_count, d, _, _ = sizes
    lanes = tile_keys(u)
    blocks = (rows + lanes - 1) // lanes
    packed = np.empty(batch * blocks * d * lanes, u.dtype)
    for task in prange(batch * blocks):
        b, block = divmod(np.int64(task), blocks)
        first = b * rows + block * lanes
        count = min(lanes, rows - block * lanes)
        pack_block(u, first * d, count, d, packed, np.int64(task) * d * lanes)
    _start_bars(positions, ks, bars, bar_stride, sizes, scores)

    tiles = (key_count + TILE - 1) // TILE
    pairs = (tiles + 1) // 2
    for task in prange(batch * pairs):
        b, near = divmod(np.int64(task), pairs)
        far = tiles - 1 - near
        rows_of = (b * rows, b * blocks * d * lanes, b * key_stride, b * bar_stride)
        _tile(near, packed, keys, positions, bars, rows_of, sizes, indices, keep)
        if far > near:
            _tile(far, packed, keys, positions, bars, rows_of, sizes, indices, keep)


@njit
def _tile(
    tile: int,
    packed: Any,
    keys: Any,
    positions: Any,
    bars: Any,
    rows_of: Any,
    sizes: Any,
    indices: Any,
    keep: Any,
) -> None:
    """Bring the bars of one tile of tokens up to date with the new rows."""
    base, new, old, lists = rows_of
    _, rows, key_count, d, width, exclude = sizes
    lanes = tile_keys(keys)
    low = tile * TILE
    count = min(TILE, key_count - low)
    first = 0
    while first < rows and positions[base + first] < low + exclude:
        first += 1
    if first == rows:
        return
    queries = np.zeros(TILE * d, keys.dtype)
    queries[: count * d] = keys[old + low * d : old + (low + count) * d]
    reach = np.full(TILE, np.inf, keys.dtype)
    for r in range(count):
        reach[r] = bars[lists + (low + r) * width]
    found = np.empty(ROWS * lanes, keys.dtype)
    for block in range(first // lanes, (rows + lanes - 1) // lanes):
        for group in range(0, count, ROWS):
            masks = score_tile(
                queries, group * d, packed, new + block * d * lanes, d, reach, group, found
            )
            for r in range(ROWS):
                mask = masks[r]
                j = low + group + r
                own = lists + j * width
                while mask:
                    lane = lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    t = block * lanes + lane
                    score = found[r * lanes + lane]
                    if t >= rows or j >= key_count or positions[base + t] - j < exclude:
                        continue
                    if score >= bars[own]:
                        _meet(bars, own, width, score, indices, keep, (base + t) * width, j)
                        reach[group + r] = bars[own]


@njit(parallel=True, cache=True)
def _few_rows(
    u: Any,
    keys: Any,
    key_stride: int,
    positions: Any,
    ks: Any,
    bars: Any,
    bar_stride: int,
    sizes: Any,
    indices: Any,
    scores: Any,
    keep: Any,
) -> None:
    batch, rows, key_count, d, width, exclude = sizes
    _start_bars(positions, ks, bars, bar_stride, sizes, scores)
    chunks = (key_count + CHUNK - 1) // CHUNK
    for task in prange(batch * chunks):
        b, chunk = divmod(np.int64(task), chunks)
        for i in range(b * rows, (b + 1) * rows):
            stop = min((chunk + 1) * CHUNK, key_count, positions[i] - exclude + 1)
            for first in range(chunk * CHUNK, stop, CHAINS):
                found = dots(u, i * d, keys, consecutive(b * key_stride, first, stop - 1, d), d)
                for n in range(min(CHAINS, stop - first)):
                    j = first + n
                    own = b * bar_stride + j * width
                    if found[n] >= bars[own]:
                        _meet(bars, own, width, found[n], indices, keep, i * width, j)
