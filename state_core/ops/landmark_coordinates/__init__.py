"""Hops to the landmarks, token by token: what a growing graph knows of distances when it grows.

    c[i, l] = 1 + min over i's edges to j of c[j, l]        for tokens i at or after born[l]

A landmark is chosen at its border `born`, when all tokens before it are read; their distances to it
are found then, by search, and are in the table already. Every entry is written once.

Shapes: B batch, T new tokens, S tokens known, E edges of a row, L landmarks.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "landmark_coordinates",
    {
        "cpu": Backend("state_core.ops.landmark_coordinates.cpu", ("cpu",), ("numba",)),
        "naive": Backend("state_core.ops.landmark_coordinates.naive", ("cpu",)),
    },
)


def landmark_coordinates(
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    positions: torch.Tensor,
    born: torch.Tensor,
    table: torch.Tensor,
    *,
    backend: str = "auto",
) -> None:
    """Write the new tokens' rows of `table`, in place.

    neighbors: [B, T, E] int32, earlier tokens; of row t the first counts[b, t] are valid.
    counts:    [B, T] int32.
    positions: [B, T] int64, ascending by one: row t is token positions[b, t].
    born:      [B, L] int64: landmark l has a distance from this token on. Where a token is older
               its entry stays as it is, to be filled by who chooses the landmark.
    table:     [B, S, L] int32, -1 for unreached. Each batch row lies in one piece of memory.
    backend:   "auto", "cpu" or "naive".

    Raises InputError for shapes and dtypes that do not fit, and for positions outside the table.
    """
    _check(neighbors, counts, positions, born, table)
    if table.shape[2] and positions.numel():
        OP.select(backend, table.device)(neighbors, counts, positions, born, table)


def _check(
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    positions: torch.Tensor,
    born: torch.Tensor,
    table: torch.Tensor,
) -> None:
    if neighbors.ndim != 3 or table.ndim != 3:
        shapes = f"{list(neighbors.shape)} and {list(table.shape)}"
        raise InputError(
            f"landmark_coordinates expects neighbors [B, T, E], table [B, S, L], got {shapes}"
        )
    batch, rows, _ = neighbors.shape
    expected = {
        "counts": (counts, (batch, rows), torch.int32),
        "positions": (positions, (batch, rows), torch.int64),
        "born": (born, (batch, table.shape[2]), torch.int64),
        "neighbors": (neighbors, tuple(neighbors.shape), torch.int32),
        "table": (table, (batch, *table.shape[1:]), torch.int32),
    }
    for name, (given, shape, dtype) in expected.items():
        if tuple(given.shape) != shape or given.dtype != dtype:
            raise InputError(
                f"landmark_coordinates: {name} must be {list(shape)} {dtype}, "
                f"got {list(given.shape)} {given.dtype}"
            )
    if table.numel() and (table.stride(1), table.stride(2)) != (table.shape[2], 1):
        raise InputError(
            "landmark_coordinates: the rows of table must be contiguous, they change in place"
        )
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < table.shape[1]:
        raise InputError(f"landmark_coordinates: positions must lie in 0 … {table.shape[1] - 1}")
