"""Texts in parallel, tokens in order, landmarks side by side in vectors.

A hop count of −1, read as unsigned, is the largest number there is: a minimum needs no test for
what is unreached. Flat arrays: batch row b of the table starts at b · stride, then [S, L].
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.score_tile import flat_rows

NONE = np.uint32(0xFFFFFFFF)
ONE = np.uint32(1)


@torch.library.custom_op(
    "state_core::landmark_coordinates", mutates_args=("table",), device_types="cpu"
)
def landmark_coordinates(
    neighbors: Tensor, counts: Tensor, positions: Tensor, born: Tensor, table: Tensor
) -> None:
    """See `state_core.ops.landmark_coordinates`."""
    flat, stride = flat_rows(table)
    match_torch_threads(len(table))
    _fill(
        neighbors.contiguous().numpy(),
        counts.contiguous().numpy(),
        positions.contiguous().numpy(),
        born.contiguous().numpy(),
        flat.view(np.uint32),
        stride,
    )


@landmark_coordinates.register_fake
def _(neighbors: Tensor, counts: Tensor, positions: Tensor, born: Tensor, table: Tensor) -> None:
    return None


@njit(parallel=True, cache=True)
def _fill(neighbors, counts, positions, born, table, stride):
    batch, rows, _ = neighbors.shape
    landmarks = born.shape[1]
    for b in prange(batch):
        least = np.empty(landmarks, np.uint32)
        for t in range(rows):
            least[:] = NONE
            for e in range(counts[b, t]):
                start = b * stride + neighbors[b, t, e] * landmarks
                for l in range(landmarks):
                    least[l] = min(least[l], table[start + l])
            own = b * stride + positions[b, t] * landmarks
            for l in range(landmarks):
                if born[b, l] <= positions[b, t]:
                    table[own + l] = NONE if least[l] == NONE else least[l] + ONE
