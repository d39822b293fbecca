"""Causal mutual k-NN: an edge i -> j stays only if j would choose i as well.

Token j keeps the scores of its K_j best tokens among those read so far, earlier and later ones.
Edge i -> j stays iff j is in i's list and i is, at the moment it is read, among j's K_j best:

    keep(i, j)  iff  score(i, j) >= bar_j,    bar_j = K_j-th best of {score(t, j) : t < i}

where t runs over all tokens at least `exclude` away from j, whether or not they chose j; -inf while
there are fewer than K_j. A tie goes to i, the most recent. So a hub raises its own bar, and nothing
looks ahead. The state of the recursion is `bars` [B, S, K]: for each token its best scores,
ascending, so that column 0 is the bar; unused columns (K_j < K) hold +inf.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.causal_topk import check_rows, row_k

OP = Op(
    "mutual_filter",
    {
        "cpu": Backend("state_core.ops.mutual_filter.cpu", devices=("cpu",), requires=("numba",)),
        "naive": Backend("state_core.ops.mutual_filter.naive"),
    },
)


def mutual_filter(
    indices: Tensor,
    scores: Tensor,
    u: Tensor,
    k: int | Tensor | None = None,
    exclude: int = 1,
    *,
    keys: Tensor | None = None,
    positions: Tensor | None = None,
    bars: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Which of the edges that `causal_topk` chose are mutual.

    Args:
        indices: [B, T, K] int32, the rows' lists; -1 where there is no edge.
        scores: [B, T, K], the K best scores of each row, as `causal_topk` gave them.
        u, k, exclude, keys, positions: as given to `causal_topk`; k is K by default. Each batch
            row's positions ascend; padding rows (negative positions) change nothing.
        bars: [B, S, K] like scores, the running best scores of all tokens, changed in place: the
            rows at `positions` are set (whatever they held), earlier ones are brought up to date.
            Needed only if tokens came before these, or will come after.

    Returns:
        keep [B, T, K] bool, False where there is no edge.

    Raises:
        InputError: wrong shape or dtype, or keys of earlier tokens without their bars.
    """
    own = keys is None
    keys = u if keys is None else keys
    check_rows("mutual_filter", u, keys, positions, exclude)
    batch, tokens, _ = u.shape
    width = indices.shape[-1]
    _check(indices, scores, u)
    if bars is None:
        if not own and keys.shape[1] != tokens:
            raise InputError(
                f"mutual_filter: {keys.shape[1]} keys for {tokens} rows: "
                "earlier tokens need their bars"
            )
        bars = scores.new_empty(batch, keys.shape[1], width)
    _check_bars(bars, scores, keys.shape[1])
    if positions is None:
        positions = torch.arange(tokens, device=u.device).expand(batch, tokens)
    elif positions.numel() and int(positions.max()) >= keys.shape[1]:
        raise InputError(f"mutual_filter: positions must lie below {keys.shape[1]}, the keys")
    ks, _ = row_k(width if k is None else k, width, batch, tokens, u.device)
    select = OP.select(backend, u.device)
    return select(indices, scores.detach(), u.detach(), keys.detach(), positions, ks, bars, exclude)


def _check(indices: Tensor, scores: Tensor, u: Tensor) -> None:
    if indices.dim() != 3 or indices.shape[:2] != u.shape[:2] or indices.dtype != torch.int32:
        expected = f"[{u.shape[0]}, {u.shape[1]}, K] int32"
        raise InputError(
            f"mutual_filter: indices must be {expected}, got {list(indices.shape)} {indices.dtype}"
        )
    if scores.shape != indices.shape or scores.dtype != u.dtype:
        raise InputError(
            f"mutual_filter: scores must be {list(indices.shape)} {u.dtype}, "
            f"got {list(scores.shape)} {scores.dtype}"
        )


def _check_bars(bars: Tensor, scores: Tensor, keys: int) -> None:
    batch, _, width = scores.shape
    if bars.shape != (batch, keys, width) or bars.dtype != scores.dtype:
        raise InputError(
            f"mutual_filter: bars must be {[batch, keys, width]} {scores.dtype}, "
            f"got {list(bars.shape)} {bars.dtype}"
        )
    if bars.numel() and (bars.stride(1), bars.stride(2)) != (width, 1):
        raise InputError("mutual_filter: the rows of bars must be contiguous, they change in place")
