"""Scores of edges on a GPU: a thread an edge forward, rows and reversed edges backward, no atomics.

A score is the same chain of fused multiply-adds as in `causal_topk`, and has the same bits. The
gradient of a key is summed over its reversed edges. A token may have as many as there are rows, so
they are cut into pieces of at most PIECE, which are summed on their own and then in order.

B batch, T rows, S keys, d features in N blocks, E edges of a row, M pieces. Contiguous:
u [B, T, d]; keys [B, S, d]; neighbors [B, T, E]; counts [B, T]; scores and grad [B, T, E, N].
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from state_core.ops.graph_memo import check_edges
from state_core.ops.reverse_edges import sorted_reverse_edges
from state_core.ops.specimen import Specimen

EDGES = 128  # edges of a program of the forward: one a thread
ROWS = 8  # rows of a program of the gradient of u
STEP = 16  # edges that a program of the gradient of the keys reads at once
PIECE = 256  # edges of a piece at most


@torch.library.custom_op("state_core::edge_scores_triton", mutates_args=())
def edge_scores(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor, blocks: int) -> Tensor:
    check_edges(neighbors, counts, keys.shape[1])
    batch, rows, width = neighbors.shape
    scores = u.new_empty(batch, rows, width, blocks)
    if scores.numel():
        _forward[(triton.cdiv(rows * width, EDGES), batch)](
            u.contiguous(),
            keys.contiguous(),
            neighbors.contiguous(),
            counts.contiguous(),
            scores,
            rows,
            keys.shape[1],
            width,
            FEATURES=u.shape[2],
            BLOCKS=blocks,
            BLOCK_E=EDGES,
        )
    return scores


@torch.library.custom_op("state_core::edge_scores_triton_backward", mutates_args=())
def edge_scores_backward(
    grad: Tensor, u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    batch, rows, d = u.shape
    seen, width = keys.shape[1], neighbors.shape[2]
    grad, u, keys = grad.contiguous(), u.contiguous(), keys.contiguous()
    features = {"FEATURES": d, "BLOCKS": grad.shape[3], "BLOCK_D": triton.next_power_of_2(d)}
    grad_u, grad_keys = torch.empty_like(u), torch.empty_like(keys)
    if grad_u.numel():
        _row_grads[(triton.cdiv(rows, ROWS), batch)](
            grad,
            keys,
            neighbors.contiguous(),
            counts.contiguous(),
            grad_u,
            rows,
            seen,
            width,
            BLOCK_T=ROWS,
            **features,
        )
    if grad_keys.numel():
        starts, edges = sorted_reverse_edges(neighbors, counts, seen)
        owners, ends = _pieces(starts, rows * width)
        sums = u.new_empty(len(owners), d)
        _piece_sums[(len(owners),)](
            grad, u, starts, edges, owners, ends, sums, batch * seen, rows, seen, width,
            PIECE=PIECE, BLOCK_E=STEP, num_warps=1, **features,
        )  # fmt: skip
        _key_sums[(batch * seen,)](
            sums, ends, grad_keys, FEATURES=d, BLOCK_D=features["BLOCK_D"], num_warps=1
        )
    return grad_u, grad_keys


def _pieces(starts: Tensor, edges: int) -> tuple[Tensor, Tensor]:
    """Each key's reversed edges in pieces of at most PIECE.

    Returns the key of every piece [M], b * S + j, and where each key's pieces end [B * S]. M is
    what they can be at most, so that nobody has to wait for the GPU to count; the key of those
    that are too many is B * S.
    """
    batch, borders = starts.shape
    ends = torch.div(starts.diff() + PIECE - 1, PIECE, rounding_mode="floor").flatten().cumsum(0)
    most = batch * (borders - 1 + edges // PIECE)
    pieces = torch.arange(most, device=starts.device)
    return torch.searchsorted(ends, pieces, right=True).to(torch.int32), ends.to(torch.int32)


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


@triton.jit
def _halves(x):
    """The even and the odd columns of x [n, m], m a multiple of 2."""
    return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))


@triton.jit
def _column(x):
    return tl.reshape(x, [x.shape[0]])


@triton.jit
def _forward(
    u,
    keys,
    neighbors,
    counts,
    scores,
    T,
    S,
    E,
    FEATURES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """The terms of BLOCK_E edges of one batch row, one after the other block."""
    WIDTH: tl.constexpr = FEATURES // BLOCKS
    b = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    i = place // E
    inside = i < T
    real = inside & (place - i * E < tl.load(counts + b * T + i, mask=inside, other=0))
    j = tl.load(neighbors + b * T * E + place, mask=real, other=0)
    row = u + (b * T + i[:, None]) * FEATURES
    key = keys + (b * S + j[:, None]) * FEATURES
    out = scores + (b * T * E + place) * BLOCKS
    for n in range(BLOCKS):
        total = tl.zeros([BLOCK_E], dtype=u.dtype.element_ty)
        for c in tl.range(0, WIDTH, 4, loop_unroll_factor=4):
            # Four features in one load, then one after the other.
            lane = c + tl.arange(0, 4)[None, :]
            held = real[:, None] & (lane < WIDTH)
            x = tl.load(row + n * WIDTH + lane, mask=held, other=0.0)
            y = tl.load(key + n * WIDTH + lane, mask=held, other=0.0)
            x02, x13 = _halves(x)
            y02, y13 = _halves(y)
            x0, x2 = _halves(x02)
            x1, x3 = _halves(x13)
            y0, y2 = _halves(y02)
            y1, y3 = _halves(y13)
            total = tl.fma(_column(x0), _column(y0), total)
            total = tl.fma(_column(x1), _column(y1), total)
            total = tl.fma(_column(x2), _column(y2), total)
            total = tl.fma(_column(x3), _column(y3), total)
        tl.store(out + n, tl.where(total == 0, 0.0, total), mask=inside)  # -0 becomes 0


@triton.jit
def _row_grads(
    grad,
    keys,
    neighbors,
    counts,
    grad_u,
    T,
    S,
    E,
    FEATURES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """du of BLOCK_T rows: each adds its keys, edge after edge."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.arange(0, BLOCK_D)[None, :]
    line = b * T + i
    count = tl.load(counts + line, mask=i < T, other=0)
    total = tl.zeros([BLOCK_T, BLOCK_D], dtype=keys.dtype.element_ty)
    for e in range(tl.max(count, 0)):
        real = e < count
        j = tl.load(neighbors + line * E + e, mask=real, other=0)
        held = real[:, None] & (c < FEATURES)
        place = (line[:, None] * E + e) * BLOCKS + c // (FEATURES // BLOCKS)
        weight = tl.load(grad + place, mask=held, other=0.0)
        key = tl.load(keys + (b * S + j[:, None]) * FEATURES + c, mask=held, other=0.0)
        total += weight * key
    tl.store(grad_u + line[:, None] * FEATURES + c, total, mask=(i[:, None] < T) & (c < FEATURES))


@triton.jit
def _piece_sums(
    grad,
    u,
    starts,
    edges,
    owners,
    ends,
    sums,
    owned,
    T,
    S,
    E,
    FEATURES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Sum of g u over one piece of the edges that point at a key."""
    piece = tl.program_id(0).to(tl.int64)
    owner = tl.load(owners + piece)
    real = owner < owned
    b = (owner // S).to(tl.int64)
    start = tl.load(starts + owner + b, mask=real, other=0)
    stop = tl.load(starts + owner + b + 1, mask=real, other=0)
    before = tl.load(ends + owner - 1, mask=real & (owner > 0), other=0)
    first = start + (piece - before).to(tl.int32) * PIECE
    last = tl.minimum(first + PIECE, stop)
    c = tl.arange(0, BLOCK_D)[None, :]
    total = tl.zeros([BLOCK_E, BLOCK_D], dtype=u.dtype.element_ty)
    for step in range(first, last, BLOCK_E):
        place = step + tl.arange(0, BLOCK_E)
        edge = tl.load(edges + b * T * E + place, mask=place < last, other=0)
        held = (place < last)[:, None] & (c < FEATURES)
        at = (b * T * E + edge[:, None]) * BLOCKS + c // (FEATURES // BLOCKS)
        weight = tl.load(grad + at, mask=held, other=0.0)
        row = tl.load(u + (b * T + edge[:, None] // E) * FEATURES + c, mask=held, other=0.0)
        total += weight * row
    out = sums + piece * FEATURES + tl.arange(0, BLOCK_D)
    tl.store(out, tl.sum(total, 0), mask=real & (tl.arange(0, BLOCK_D) < FEATURES))


@triton.jit
def _key_sums(sums, ends, grad_keys, FEATURES: tl.constexpr, BLOCK_D: tl.constexpr):
    """dkeys of one key: the sum of its pieces."""
    key = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], dtype=sums.dtype.element_ty)
    first = tl.load(ends + key - 1, mask=key > 0, other=0)
    line = sums + first.to(tl.int64) * FEATURES + c
    for _ in range(first, tl.load(ends + key)):
        total += tl.load(line, mask=c < FEATURES, other=0.0)
        line += FEATURES
    tl.store(grad_keys + key * FEATURES + c, total, mask=c < FEATURES)


_TYPES = dict.fromkeys(("u", "keys", "scores", "grad", "grad_u", "sums", "grad_keys"), "*fp32")
_TYPES |= dict.fromkeys(("neighbors", "counts", "starts", "edges", "owners", "ends"), "*i32")
_TYPES |= dict.fromkeys(("T", "S", "E", "owned"), "i32")


def _specimen(name: str, kernel: Any, warps: int, **constants: int) -> Specimen:
    return Specimen(
        name=name,
        kernel=kernel,
        signature={n: _TYPES.get(n, "constexpr") for n in kernel.arg_names},
        constants={n: size for n, size in constants.items() if n in kernel.arg_names},
        warps=warps,
    )


_SHAPE = {"FEATURES": 64, "BLOCKS": 1, "BLOCK_D": 64}
SPECIMENS = (
    _specimen("forward", _forward, 4, BLOCK_E=EDGES, **_SHAPE),
    _specimen("row gradients", _row_grads, 4, BLOCK_T=ROWS, **_SHAPE),
    _specimen("piece sums", _piece_sums, 1, PIECE=PIECE, BLOCK_E=STEP, **_SHAPE),
    _specimen("key sums", _key_sums, 1, **_SHAPE),
)
