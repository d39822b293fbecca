"""Fused scores and selection on a GPU: a thread keeps one row's K best and walks the key tiles.

A block of 32 rows is one warp. Its scores against a tile of 32 keys lie keys x rows, so that every
thread holds its own row's scores and list, and selecting needs no other thread. A score is the
chain of fused multiply-adds of the CPU backend, feature after feature: its bits depend on the two
tokens alone. The list is unordered, its worst entry is the bar; scores that reach it are taken best
first, each in place of the worst, until no row of the warp has one left. (score, j) is a total
order, so neither the tiles nor how a walk is split can change the result.

B batch, T rows, S keys, d features, K columns, P parts that the walk of few rows is split into.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.specimen import Specimen

TILE = 32  # rows of a block and keys of a tile
FEW = 8  # up to here the keys are read as they lie: transposing them costs more than it saves
WARPS = 1024  # what it takes to fill a GPU: fewer blocks of rows than this split their walks ...
PART = 8  # ... into parts of no fewer tiles than this


@torch.library.custom_op("state_core::causal_topk_triton", mutates_args=())
def causal_topk(
    u: Tensor,
    keys: Tensor,
    positions: Tensor,
    ks: Tensor,
    width: int,
    exclude: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    _check_finite(u, keys, positions, exclude, causal)
    batch, rows, d = u.shape
    seen = keys.shape[1]
    blocks = triton.cdiv(rows, TILE)
    longest = triton.cdiv(seen, TILE * PART)
    parts = max(min(triton.cdiv(WARPS, max(batch * blocks, 1)), longest), 1)
    indices = u.new_empty(batch, rows, parts, width, dtype=torch.int32)
    scores = u.new_empty(batch, rows, parts, width)
    if indices.numel() == 0:
        return indices[:, :, 0], scores[:, :, 0]
    if rows > FEW:
        same = keys.data_ptr() == u.data_ptr() and keys.stride() == u.stride()
        keys = _features_first(keys)
        u = keys if same and seen == rows else _features_first(u)
    _select[(blocks, parts, batch)](
        u,
        *u.stride(),
        keys,
        *keys.stride(),
        keys.shape[1],
        positions.contiguous(),
        ks.contiguous(),
        indices,
        scores,
        rows,
        seen,
        width,
        exclude,
        FEATURES=d,
        CAUSAL=causal,
        BLOCK_T=TILE,
        BLOCK_S=TILE,
        BLOCK_K=triton.next_power_of_2(width),
        num_warps=1,
    )
    return _merge(indices, scores)


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


def _check_finite(u: Tensor, keys: Tensor, positions: Tensor, exclude: int, causal: bool) -> None:
    """Raise for NaN or infinity in a row, or in a key that some row looks at."""
    if u.numel() == 0:
        return
    seen = keys.shape[1]
    newest = positions.amax(1, keepdim=True)
    looked_at = torch.arange(seen, device=u.device) <= newest - exclude if causal else newest >= 0
    if not (u.isfinite().all() & (keys.isfinite().all(-1) | ~looked_at).all()):
        raise InputError("causal_topk: NaN or infinity in u or keys")


def _features_first(x: Tensor) -> Tensor:
    """x [B, S, d] as a view of [B, d, S'], zeros at the end up to whole tiles: neighbouring tokens
    lie side by side, as neighbouring threads read them."""
    batch, tokens, d = x.shape
    lines = x.new_zeros(batch, d, triton.cdiv(tokens, TILE) * TILE)
    lines[:, :, :tokens] = x.mT
    return lines.mT


def _merge(indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T, P, K], the best of every part, as [B, T, K], the best of all."""
    if indices.shape[2] == 1:
        return indices[:, :, 0], scores[:, :, 0]
    # By token from the last to the first, then by score: a stable sort keeps that among equals.
    recent, order = indices.flatten(2).sort(dim=-1, descending=True)
    best, rank = scores.flatten(2).gather(-1, order).sort(dim=-1, descending=True, stable=True)
    width = indices.shape[3]
    return recent.gather(-1, rank)[..., :width].contiguous(), best[..., :width].contiguous()


@triton.jit
def _best(s, j):
    """Each row's best score and the largest of the tokens that have it."""
    best = tl.max(s, 0)
    return best, tl.max(tl.where(s == best[None, :], j, -0x80000000), 0)


@triton.jit
def _worst(s, j):
    """Each row's worst score and the smallest of the tokens that have it."""
    worst = tl.min(s, 0)
    return worst, tl.min(tl.where(s == worst[None, :], j, 0x7FFFFFFF), 0)


@triton.jit
def _select(
    u,
    u_batch,
    u_row,
    u_feature,
    keys,
    keys_batch,
    keys_row,
    keys_feature,
    readable,
    positions,
    ks,
    indices,
    scores,
    T,
    S,
    width,
    exclude,
    FEATURES: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The `width` best of a block of rows within one part of their keys, best first.

    u and keys with the strides of [B, T, d] and [B, S, d]; `readable` keys of a batch row may be
    read, S of them count. positions, ks [B, T]; indices, scores [B, T, P, width].
    """
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    i = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_T + tl.arange(0, BLOCK_T)
    real = i < T
    line = b * T + i
    p = tl.load(positions + line, mask=real, other=-1).to(tl.int32)
    last = tl.max(p, 0)
    stop = tl.minimum(last - exclude + 1, S) if CAUSAL else tl.where(last < 0, 0, S)
    tiles = tl.cdiv(tl.maximum(stop, 0), BLOCK_S)

    column = tl.arange(0, BLOCK_K)[:, None]
    zero = tl.zeros([BLOCK_K, BLOCK_T], dtype=u.dtype.element_ty)
    found = tl.where(column < width, zero - float("inf"), zero + float("inf"))
    found_j = tl.zeros([BLOCK_K, BLOCK_T], dtype=tl.int32) - 1 - column
    bar, bar_j = _worst(found, found_j)

    row = u + b * u_batch + i * u_row
    key = keys + b * keys_batch
    for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
        j = tile * BLOCK_S + tl.arange(0, BLOCK_S)
        s = tl.zeros([BLOCK_S, BLOCK_T], dtype=u.dtype.element_ty)
        for c in tl.range(0, FEATURES, loop_unroll_factor=4):
            x = tl.load(key + c * keys_feature + j * keys_row, mask=j < readable, other=0.0)
            y = tl.load(row + c * u_feature, mask=real, other=0.0)
            s = tl.fma(
                tl.broadcast_to(x[:, None], s.shape), tl.broadcast_to(y[None, :], s.shape), s
            )
        j = j[:, None]
        lag = p[None, :] - j
        far = (lag >= exclude) if CAUSAL else (lag >= exclude) | (lag <= -exclude)
        seen = far & (j < S) & (p[None, :] >= 0)
        s = tl.where(seen, tl.where(s == 0, 0.0, s), float("-inf"))  # -0 becomes 0

        while tl.max(tl.max(((s >= bar[None, :]) & (s > float("-inf"))).to(tl.int32), 0), 0) > 0:
            best, best_j = _best(s, j)
            taken = (best > bar) | ((best == bar) & (best_j > bar_j) & (best > float("-inf")))
            out = taken[None, :] & (found == bar[None, :]) & (found_j == bar_j[None, :])
            found = tl.where(out, best[None, :], found)
            found_j = tl.where(out, best_j[None, :], found_j)
            bar, bar_j = _worst(found, found_j)
            # What is less than a score that was not taken is not taken either.
            s = tl.where(taken[None, :] & (j != best_j[None, :]), s, float("-inf"))

    k = tl.load(ks + line, mask=real, other=0)
    found = tl.where(column < width, found, float("-inf"))
    place = (line * parts + part) * width
    for rank in range(width):
        best, best_j = _best(found, found_j)
        held = (best_j >= 0) & (rank < k)
        tl.store(indices + place + rank, tl.where(held, best_j, -1), mask=real)
        tl.store(scores + place + rank, tl.where(held, best, float("-inf")), mask=real)
        gone = found_j == best_j[None, :]
        found = tl.where(gone, float("-inf"), found)
        found_j = tl.where(gone, -0x80000000, found_j)


def _specimen(name: str, dtype: str) -> Specimen:
    integers = ("u_batch", "u_feature", "keys_batch", "keys_feature", "readable")
    sizes = ("T", "S", "width", "exclude")
    signature = {"u": f"*{dtype}", "keys": f"*{dtype}", "scores": f"*{dtype}"}
    signature |= {"positions": "*i64", "ks": "*i32", "indices": "*i32"}
    signature |= dict.fromkeys(integers + sizes, "i32")
    return Specimen(
        name=name,
        kernel=_select,
        signature={n: signature.get(n, "constexpr") for n in _select.arg_names},
        constants={
            "u_row": 1,
            "keys_row": 1,
            "FEATURES": 64,
            "CAUSAL": True,
            "BLOCK_T": TILE,
            "BLOCK_S": TILE,
            "BLOCK_K": 16,
        },
        warps=1,
    )


SPECIMENS = (_specimen("select", "fp32"), _specimen("select float64", "fp64"))
