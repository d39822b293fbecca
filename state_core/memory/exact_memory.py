"""Exact search, and the exact similarity of given pairs, by the ops that build the token graph.

`causal_topk` streams over the items without ever holding a matrix of scores, sends ties to the
larger row, and gives a pair the bits that `edge_scores` gives it. So every kind of memory reports
the same similarity for the same pair, whatever else is searched for in the same call.

Shapes: N items, Q queries, K hits.
"""

from __future__ import annotations

import numpy as np
import torch

from state_core import ops
from state_core.memory.protocol import Floats, Ints

BLOCK = 1 << 16  # rows; what a block with holes is copied to stays within the processor's caches


def nearest(vectors: Floats, rows: Ints, queries: Floats, k: int) -> tuple[Ints, Floats]:
    """The k best of `rows`, which must increase, by inner product; ties go to the larger row.

    Returns rows [Q,k], -1 where there is none, and similarities [Q,k], -inf there.
    """
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    if not blocks or not len(queries):
        return _nothing(len(queries), k)
    # Later blocks first: `best` is stable, and so keeps their rows ahead among equals.
    found = [_nearest_of_block(vectors, block, queries, k) for block in reversed(blocks)]
    if len(found) == 1:
        return found[0]
    return best(np.hstack([f[0] for f in found]), np.hstack([f[1] for f in found]), k)


def similarities(vectors: Floats, rows: Ints, queries: Floats) -> Floats:
    """Inner products [Q,K] of queries with their rows [Q,K]; -inf where the row is -1."""
    if not rows.size or not len(vectors):
        return np.full(rows.shape, -np.inf, np.float32)
    neighbors = torch.from_numpy(rows.clip(0).astype(np.int32))[None]
    counts = torch.full(neighbors.shape[:2], rows.shape[1], dtype=torch.int32)
    u, keys = torch.from_numpy(queries)[None], torch.from_numpy(vectors)[None]
    scores: Floats = ops.edge_scores(u, neighbors, counts, keys=keys)[0].numpy()
    return np.where(rows >= 0, scores, np.float32(-np.inf))


def best(rows: Ints, scores: Floats, k: int) -> tuple[Ints, Floats]:
    """The first k of each line by falling score, stable, padded to k with -1 and -inf."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    lacking = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(np.take_along_axis(rows, order, 1), lacking, constant_values=-1),
        np.pad(np.take_along_axis(scores, order, 1), lacking, constant_values=-np.inf),
    )


def _nearest_of_block(vectors: Floats, rows: Ints, queries: Floats, k: int) -> tuple[Ints, Floats]:
    whole = rows[-1] - rows[0] + 1 == len(rows)  # no holes: no copy
    keys = torch.from_numpy(vectors[rows[0] : rows[-1] + 1] if whole else vectors[rows])[None]
    after_all = torch.full((1, len(queries)), len(rows))
    few = min(k, len(rows))
    at, scores = ops.causal_topk(
        torch.from_numpy(queries)[None], few, keys=keys, positions=after_all, width=few
    )
    lacking = ((0, 0), (0, k - few))
    return (
        np.pad(rows[at[0].numpy()], lacking, constant_values=-1),
        np.pad(scores[0].numpy(), lacking, constant_values=-np.inf),
    )


def _nothing(queries: int, k: int) -> tuple[Ints, Floats]:
    return np.full((queries, k), -1), np.full((queries, k), -np.inf, np.float32)
