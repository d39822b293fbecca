"""Exact causal top-K by inner product: for each token its most similar predecessors.

    score(i, j) = <u_i, keys_j>        row i takes its K_i best j <= p_i - exclude

p_i is the row's absolute position. Best first; among equal scores the most recent token (largest
j) comes first, and so survives. A score is one chain of fused multiply-adds in feature order, so
its bits depend on the two rows alone: a token appended to a stream gets exactly the row of the
full batch. Memory O(T K), time O(T S d). Never T x T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "causal_topk",
    {
        "cpu": Backend("state_core.ops.causal_topk.cpu", devices=("cpu",), requires=("numba",)),
        "triton": Backend("state_core.ops.causal_topk.triton", ("cuda",), ("triton",)),
        "naive": Backend("state_core.ops.causal_topk.naive"),
    },
)


def causal_topk(
    u: Tensor,
    k: int | Tensor,
    exclude: int = 1,
    *,
    causal: bool = True,
    keys: Tensor | None = None,
    positions: Tensor | None = None,
    width: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The K most similar earlier tokens of every row.

    Args:
        u: [B, T, d] float32 or float64, the rows that look.
        k: neighbours per row, one number or [B, T].
        exclude: how near a neighbour may be: j <= p_i - exclude, at least 1.
        causal: False lets row i take later tokens as well, any j with |p_i - j| >= exclude.
        keys: [B, S, d], what they look at; `u` by default. Key j stands at position j.
        positions: [B, T] int64, the rows' absolute positions; 0 .. T-1 by default. A row with a
            negative position (padding) has no neighbours.
        width: columns of the result, at least the largest k; that by default.

    Returns:
        indices [B, T, width] int32, best first, -1 where there is none, and their scores
        [B, T, width], -inf there. Neither is differentiable: see `edge_scores`.

    Raises:
        InputError: wrong shape or dtype, k or exclude out of range, NaN or infinity in u or keys.
    """
    keys = u if keys is None else keys
    check_rows("causal_topk", u, keys, positions, exclude)
    batch, tokens, _ = u.shape
    if positions is None:
        positions = torch.arange(tokens, device=u.device).expand(batch, tokens)
    ks, width = row_k(k, width, batch, tokens, u.device)
    select = OP.select(backend, u.device)
    return select(u.detach(), keys.detach(), positions, ks, width, exclude, causal)


def check_rows(op: str, u: Tensor, keys: Tensor, positions: Tensor | None, exclude: int) -> None:
    """The checks that ops on rows `u`, keys and positions share; raises InputError."""
    if u.dim() != 3 or u.dtype not in (torch.float32, torch.float64) or u.shape[-1] == 0:
        raise InputError(f"{op}: u must be [B, T, d] float32 or float64, got {_describe(u)}")
    if keys.dim() != 3 or keys.dtype != u.dtype or keys.device != u.device:
        raise InputError(f"{op}: keys must be [B, S, d] like u, {_describe(u)}; {_describe(keys)}")
    if (keys.shape[0], keys.shape[2]) != (u.shape[0], u.shape[2]):
        raise InputError(f"{op}: keys {tuple(keys.shape)} do not go with u {tuple(u.shape)}")
    if positions is not None and (positions.shape != u.shape[:2] or positions.dtype != torch.int64):
        expected = f"[{u.shape[0]}, {u.shape[1]}] int64"
        raise InputError(f"{op}: positions must be {expected}, got {_describe(positions)}")
    if exclude < 1:
        raise InputError(f"{op}: exclude must be at least 1, got {exclude}")


def row_k(
    k: int | Tensor, width: int | None, batch: int, tokens: int, device: torch.device
) -> tuple[Tensor, int]:
    """k as [B, T] int32, and the number of columns it needs."""
    if isinstance(k, int):
        low = high = k
        k = torch.full((batch, tokens), k, dtype=torch.int32, device=device)
    elif k.shape != (batch, tokens) or k.is_floating_point():
        raise InputError(f"k must be an integer or [{batch}, {tokens}] integers: {_describe(k)}")
    else:
        low, high = (int(n) for n in torch.aminmax(k)) if k.numel() else (0, 0)
    width = high if width is None else width
    if low < 0 or high > width:
        raise InputError(f"k must lie between 0 and the width {width}, got {low} to {high}")
    return k.to(torch.int32), width


def _describe(x: Tensor) -> str:
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
