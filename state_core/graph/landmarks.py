"""Landmarks: a few tokens whose distances place all others (Potamias et al., CIKM 2009).

At each border up to ⌈L / 8⌉ more are chosen from the finished prefix, until there are L: tokens of
the highest degree, no two of them adjacent (the paper's Degree/1), the most recent among equals. A
token's coordinate is its hops to a landmark. Those of the tokens before the border are found by
search when the landmark is chosen; every later token's is 1 + the least of those that its edges
lead to. Each is written once and never changed, although the graph goes on growing:

1.  A coordinate is the length of a path, then and ever after: d(i, j) ≤ min_l c_i[l] + c_j[l] for
    hops d in the graph of any later prefix.
2.  Among the tokens before a landmark's border the coordinates are its exact distances in that
    prefix, so there |c_i[l] − c_j[l]| ≤ d(i, j) as well.
3.  Along arcs, from the reader to what is read, c_i[l] − c_j[l] ≤ d⃗(i, j). The reverse, and so the
    bound |c_i − c_j| ≤ d of a graph at rest, does not hold for frozen coordinates: a token may find
    a short way to a landmark that its older neighbour did not know of.

What a layer sees of a landmark at a token older than its choice is −1, as for one out of reach:
that token was read before anyone knew.

B batch, T new tokens, S tokens known, N tokens before a border, L landmarks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from state_core import ops

BORDERS = 8  # over which the choice of a text's landmarks is spread
NOT_YET = torch.iinfo(torch.int64).max


def choose_landmarks(
    indptr: Tensor, indices: Tensor, count: int, taken: Tensor | None = None
) -> Tensor:
    """Up to `count` nodes of the highest degree, none beside another or beside those `taken`."""
    starts, ends = indptr.numpy(), indices.numpy()
    degree = np.diff(starts)
    rank = degree * len(degree) + np.arange(len(degree))
    rank[degree == 0] = -1

    def block(node: int) -> None:
        rank[node] = -1
        rank[ends[starts[node] : starts[node + 1]]] = -1

    for node in [] if taken is None else taken.tolist():
        block(node)
    chosen: list[int] = []
    while len(chosen) < count and len(rank) and rank.max() >= 0:
        chosen.append(int(rank.argmax()))
        block(chosen[-1])
    return torch.tensor(chosen, dtype=torch.int64)


def add_landmarks(
    indptr: Tensor, indices: Tensor, border: int, born: Tensor, distances: Tensor
) -> None:
    """Choose one text's landmarks of this border, in its prefix.

    born [L]: since when each is one, and distances [S,L], both changed in place.
    """
    used = int((born != NOT_YET).sum())
    count = min(-(-len(born) // BORDERS), len(born) - used)
    if count == 0:
        return
    taken = (distances[:border, :used] == 0).nonzero()[:, 0]
    chosen = choose_landmarks(indptr, indices, count, taken)
    born[used : used + len(chosen)] = border
    found = ops.landmark_distances(indptr, indices, chosen)
    distances[:border, used : used + len(chosen)] = found


def seen_when_read(distances: Tensor, positions: Tensor, born: Tensor) -> Tensor:
    """Coordinates [B,T,L] of tokens at `positions` [B,T], of landmarks known when they were read.

    distances [B,T,L]; born [B,L].
    """
    return distances.masked_fill(positions[..., None] < born[:, None], -1)
