"""How likely a random walk from a token is to come back, in the graph of the text up to that token.

    pe[i, k - 1] = (P_i^k)_ii,   P_i the walk on the undirected graph of tokens 0 … i

What `random_walk_pe` (arXiv 2110.07875) gives for the last node of each prefix: a token's own place
when it is read, and never changed by what follows.

Shapes: B batch, T new tokens, S tokens known, E edges of a row.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "causal_walk_pe",
    {
        "cpu": Backend("state_core.ops.causal_walk_pe.cpu", ("cpu",), ("numba",)),
        "naive": Backend("state_core.ops.causal_walk_pe.naive", ("cpu",)),
    },
)


def causal_walk_pe(
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    positions: torch.Tensor,
    steps: int,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Return probabilities after 1 … steps steps of the tokens at `positions`.

    neighbors: [B, S, E] int32: row i's first counts[b, i] entries are distinct tokens before i.
    counts:    [B, S] int32.
    positions: [B, T] int64.
    steps:     at least 1. A token costs the edges within ⌈steps / 2⌉ − 1 hops of it: with 4 those
               of its neighbours.
    backend:   "auto", "cpu" or "naive".

    Returns [B, T, steps] float64, the same bits for any number of threads and new tokens; zeros for
    a token without edges.

    Raises InputError for shapes and dtypes that do not fit, and for neighbours out of range.
    """
    shapes = neighbors.ndim == 3 and counts.shape == neighbors.shape[:2]
    if not shapes or positions.ndim != 2 or len(positions) != len(neighbors):
        got = ", ".join(str(list(x.shape)) for x in (neighbors, counts, positions))
        raise InputError(
            "causal_walk_pe expects neighbors [B, S, E], counts [B, S] and positions [B, T], "
            f"got {got}"
        )
    if (neighbors.dtype, counts.dtype, positions.dtype) != (torch.int32, torch.int32, torch.int64):
        raise InputError(
            "causal_walk_pe: neighbors and counts must be int32, positions int64, "
            f"got {neighbors.dtype}, {counts.dtype} and {positions.dtype}"
        )
    if steps < 1:
        raise InputError(f"causal_walk_pe expects at least 1 step, got {steps}")
    known = neighbors.shape[1]
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < known:
        raise InputError(f"causal_walk_pe: positions must lie in 0 … {known - 1}")
    found: torch.Tensor = OP.select(backend, neighbors.device)(neighbors, counts, positions, steps)
    return found
