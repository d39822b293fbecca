"""Fused scores and selection: a tile of rows walks the key blocks and keeps its K best so far.

A block of keys is scored in registers and tested there against each row's current K-th best; only
scores that reach it are looked at again. Row i costs i, so one task takes a tile from either end.

B batch, T rows, S keys, d features, K columns. Flat arrays: u [B, T, d]; keys: batch row b starts
at b * key_stride, then [S, d]; positions, ks [B, T]; indices, scores [B, T, K].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.score_tile import (
    CHAINS,
    ROWS,
    all_finite,
    consecutive,
    dots,
    flat_rows,
    lowest_bit,
    pack_block,
    score_tile,
    tile_keys,
)

TILE = 8 * ROWS  # rows of one tile: few enough that rows, lists and a key block stay in L1
FEW = ROWS  # up to here transposing the keys costs more than it saves


@torch.library.custom_op("state_core::causal_topk", mutates_args=())
def causal_topk(
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    width: int,
    exclude: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    batch, tokens, d = u.shape
    match_torch_threads(batch * tokens)
    indices = torch.empty(batch, tokens, width, dtype=torch.int32)
    scores = u.new_empty(batch, tokens, width)
    flat_keys, key_stride = flat_rows(keys)
    kernel = _few_rows if tokens <= FEW else _tiles
    finite = kernel(
        u.contiguous().view(-1).numpy(),
        flat_keys,
        key_stride,
        positions.contiguous().view(-1).numpy(),
        ks.contiguous().view(-1).numpy(),
        (batch, tokens, keys.shape[1], d, width, exclude),
        causal,
        indices.view(-1).numpy(),
        scores.view(-1).numpy(),
    )
    if not finite:
        raise InputError("causal_topk: NaN or infinity in u or keys")
    return indices, scores


@causal_topk.register_fake
def _(
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    width: int,
    exclude: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    shape = (u.shape[0], u.shape[1], width)
    return u.new_empty(shape, dtype=torch.int32), u.new_empty(shape)


@njit
def _insert(scores: Any, indices: Any, row: int, k: int, score: Any, j: int) -> Any:
    """Put j into the row's sorted list, ahead of its equals; returns the new K-th best.

    Keys arrive in ascending order, so among equals the newcomer is the most recent.
    """
    slot = row + k - 1
    while slot > row and score >= scores[slot - 1]:
        scores[slot] = scores[slot - 1]
        indices[slot] = indices[slot - 1]
        slot -= 1
    scores[slot] = score + scores.dtype.type(0)  # -0 becomes 0
    indices[slot] = j
    return scores[row + k - 1]


@njit
def _eligible(j: int, p: int, exclude: int, causal: bool) -> bool:
    return p - j >= exclude or (not causal and j - p >= exclude)


@njit
def _visible(p: int, keys: int, exclude: int, causal: bool) -> int:
    """How many leading keys have to be looked at for a row at position p."""
    if p < 0:
        return 0
    return max(min(p - exclude + 1, keys), 0) if causal else keys


@njit(parallel=True, cache=True)
def _tiles(
    u: Any,
    keys: Any,
    key_stride: int,
    positions: Any,
    ks: Any,
    sizes: Any,
    causal: bool,
    indices: Any,
    scores: Any,
) -> bool:
    batch, rows, key_count, d, width, exclude = sizes
    lanes = tile_keys(u)
    visible = np.zeros(batch, np.int64)
    for b in range(batch):
        for i in range(b * rows, (b + 1) * rows):
            visible[b] = max(visible[b], _visible(positions[i], key_count, exclude, causal))
    blocks = (visible.max() + lanes - 1) // lanes if batch else 0
    packed = np.empty(batch * blocks * d * lanes, u.dtype)
    bad = 0
    for task in prange(batch * blocks):
        b, block = divmod(np.int64(task), blocks)
        first = block * lanes
        count = max(min(lanes, visible[b] - first), 0)
        line = b * key_stride + first * d
        bad += not pack_block(keys, line, count, d, packed, np.int64(task) * d * lanes)

    tiles = (rows + TILE - 1) // TILE
    pairs = (tiles + 1) // 2
    for task in prange(batch * pairs):
        b, near = divmod(np.int64(task), pairs)
        own = packed[b * blocks * d * lanes : (b + 1) * blocks * d * lanes]
        far = tiles - 1 - near
        shape = (b * rows, rows, d, width, exclude)
        ok = _tile(near, u, own, visible[b], positions, ks, shape, causal, indices, scores)
        if far > near:
            ok &= _tile(far, u, own, visible[b], positions, ks, shape, causal, indices, scores)
        bad += not ok
    return bad == 0


@njit
def _tile(
    tile: int,
    u: Any,
    packed: Any,
    key_count: int,
    positions: Any,
    ks: Any,
    shape: Any,
    causal: bool,
    indices: Any,
    scores: Any,
) -> bool:
    """Fill the lists of one tile of one batch row; False if one of its rows is not finite."""
    base, rows, d, width, exclude = shape
    lanes = tile_keys(u)
    low = tile * TILE
    count = min(TILE, rows - low)
    queries = np.zeros(TILE * d, u.dtype)
    bars = np.full(TILE, np.inf, u.dtype)  # what a score must reach; a row that takes none: inf
    found = np.empty(ROWS * lanes, u.dtype)
    finite = True
    last = 0
    for r in range(count):
        i = base + low + r
        finite &= _start_row(u, i, d, width, indices, scores)
        queries[r * d : (r + 1) * d] = u[i * d : (i + 1) * d]
        seen = _visible(positions[i], key_count, exclude, causal)
        if ks[i] > 0 and seen > 0:
            bars[r] = -np.inf
            last = max(last, seen)

    for block in range((last + lanes - 1) // lanes):
        for group in range(0, count, ROWS):
            masks = score_tile(queries, group * d, packed, block * d * lanes, d, bars, group, found)
            for r in range(ROWS):
                mask = masks[r]
                i = base + low + group + r
                while mask:
                    lane = lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    j = block * lanes + lane
                    score = found[r * lanes + lane]
                    if score < bars[group + r] or j >= key_count:
                        continue
                    if _eligible(j, positions[i], exclude, causal):
                        bars[group + r] = _insert(scores, indices, i * width, ks[i], score, j)
    return finite


@njit(parallel=True, cache=True)
def _few_rows(
    u: Any,
    keys: Any,
    key_stride: int,
    positions: Any,
    ks: Any,
    sizes: Any,
    causal: bool,
    indices: Any,
    scores: Any,
) -> bool:
    batch, rows, key_count, d, width, exclude = sizes
    bad = 0
    for row in prange(batch * rows):
        i = np.int64(row)
        base = i // rows * key_stride
        ok = _start_row(u, i, d, width, indices, scores)
        seen = _visible(positions[i], key_count, exclude, causal)
        ok &= all_finite(keys, base, base + seen * d)
        bad += not ok
        bar = u.dtype.type(-np.inf if ks[i] > 0 else np.inf)
        for first in range(0, seen, CHAINS):
            found = dots(u, i * d, keys, consecutive(base, first, seen - 1, d), d)
            for n in range(min(CHAINS, seen - first)):
                if found[n] >= bar and _eligible(first + n, positions[i], exclude, causal):
                    bar = _insert(scores, indices, i * width, ks[i], found[n], first + n)
    return bad == 0


@njit
def _start_row(u: Any, i: int, d: int, width: int, indices: Any, scores: Any) -> bool:
    """Empty the list of row i; False if the row is not finite."""
    indices[i * width : (i + 1) * width] = -1
    scores[i * width : (i + 1) * width] = -np.inf
    return all_finite(u, i * d, (i + 1) * d)
