"""Similarity of the edges of a graph: the differentiable counterpart of `causal_topk`.

    score(i, e) = <u_i, keys_j>,  j = neighbors(i, e)
    du_i = sum_e g(i, e) keys_j         dkeys_j = sum over edges (i, e) that point at j of g u_i

An edge that `causal_topk` chose gets the bits that it was chosen by. Time and memory O(edges).
Features that come in blocks, such as those of a blockwise similarity, explain the score: the terms
of its sum, one a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "edge_scores",
    {
        "cpu": Backend("state_core.ops.edge_scores.cpu", devices=("cpu",), requires=("numba",)),
        "triton": Backend("state_core.ops.edge_scores.triton", ("cuda",), ("triton",)),
        "naive": Backend("state_core.ops.edge_scores.naive"),
    },
)


def edge_scores(
    u: Tensor,
    neighbors: Tensor,
    counts: Tensor,
    *,
    keys: Tensor | None = None,
    blocks: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Inner product of every row with each token it points at.

    Args:
        u: [B, T, d] floating point.
        neighbors: [B, T, E] int32, of which row i's first counts[b, i] are valid.
        counts: [B, T] int32.
        keys: [B, S, d] that the neighbors point into; `u` by default.
        blocks: N, to have each score as its terms over N equal blocks of features.

    Returns:
        scores [B, T, E], 0 beyond the counts, or their terms [B, T, E, N]; float64 for float64,
        float32 for all other inputs. Differentiable in u and keys.

    Raises:
        InputError: wrong shape or dtype, counts not in 0 .. E, a neighbor not in 0 .. S-1, d not
            divisible by N.
    """
    keys = u if keys is None else keys
    _check(u, neighbors, counts, keys)
    if blocks is not None and (blocks < 1 or u.shape[-1] % blocks):
        raise InputError(f"edge_scores: {u.shape[-1]} features are not {blocks} equal blocks")
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    select = OP.select(backend, u.device)
    terms: Tensor = select(u.to(dtype), neighbors, counts, keys.to(dtype), blocks or 1)
    return terms.squeeze(-1) if blocks is None else terms


def _check(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor) -> None:
    if u.dim() != 3 or not u.is_floating_point():
        raise InputError(f"edge_scores: u must be [B, T, d] floats, got {list(u.shape)} {u.dtype}")
    batch, rows, d = u.shape
    if keys.dim() != 3 or (keys.shape[0], keys.shape[2]) != (batch, d):
        raise InputError(f"edge_scores: keys must be [{batch}, S, {d}], got {list(keys.shape)}")
    if neighbors.dim() != 3 or neighbors.shape[:2] != (batch, rows):
        raise InputError(
            f"edge_scores: neighbors must be [{batch}, {rows}, E], got {list(neighbors.shape)}"
        )
    if counts.shape != (batch, rows):
        raise InputError(f"edge_scores: counts must be [{batch}, {rows}], got {list(counts.shape)}")
    if neighbors.dtype != torch.int32 or counts.dtype != torch.int32:
        raise InputError(
            "edge_scores: neighbors and counts must be int32, "
            f"got {neighbors.dtype} and {counts.dtype}"
        )
