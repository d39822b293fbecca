"""The finished prefix of a text as an undirected graph: what is chosen at a border is chosen in it.

It has the edges that the text itself gives (window, semantic edges, successors). Loops are left
out, and so are sinks and shortcuts: every token would be two hops from every other through them,
and a bridge would be a bridge because it had been one. A border is a multiple of `graph.chunk`;
what is chosen there depends on the tokens before it only, and serves those from it on. After the
first 32 there are 16 borders to each doubling of the text: a search of the prefix at every chunk
would take time that grows with the square of the text, and a prefix that grew by less than a
sixteenth has much the same bridges.

S tokens of the text, N tokens before a border, A arcs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from state_core.config import GraphConfig
from state_core.graph.landmarks import NOT_YET
from state_core.graph.neighbors import EdgeKind, Part, compact
from state_core.row_buffer import RowBuffer

Array = npt.NDArray[Any]
PER_OCTAVE = 16  # borders


class Prefix:
    """Rows [B,S,E] of the tokens read so far, and what was chosen among them; always on the CPU.

    bridges [B,K] int32: those of the last border (−1 none); born [B,L] int64: the border of each
    landmark; distances [B,S,L] int32: all hops to the landmarks that are known, coordinates
    [B,S,L]: those known when the token was read; readers [B,S]: semantic edges to each token.
    """

    def __init__(self) -> None:
        self.neighbors = RowBuffer()
        self.counts = RowBuffer()
        self.readers = RowBuffer()
        self.distances = RowBuffer()
        self.coordinates = RowBuffer()
        self.bridges = torch.empty(0, 0, dtype=torch.int32)
        self.born = torch.empty(0, 0, dtype=torch.int64)

    def extend(
        self, parts: Sequence[Part], positions: Tensor, config: GraphConfig
    ) -> tuple[Tensor, Tensor]:
        """Append the rows of tokens at `positions` [B,T], given as `own_edges` gives them; returns
        neighbors [B,T,E] int32 and counts [B,T] int32, without loops."""
        if not len(self.born):
            texts = len(positions)
            self.bridges = torch.full((texts, config.shortcut_count), -1, dtype=torch.int32)
            self.born = torch.full((texts, config.landmarks), NOT_YET)
        (near, _), *others = parts
        neighbors, counts, _ = compact([(near[..., 1:], EdgeKind.SEQUENTIAL), *others])
        self.neighbors.write(neighbors, positions)
        self.counts.write(counts, positions)
        return neighbors, counts

    def rows(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """All rows: neighbors [B,S,E], and counts [B,S], 0 from each text's length [B] on."""
        counts = self.counts.view(lengths)
        known = torch.arange(counts.shape[1]) < lengths[:, None]
        return self.neighbors.view(counts), torch.where(known, counts, 0)

    def snapshot(self) -> Prefix:
        """A copy that what is read from now on does not change."""
        copy = Prefix()
        copy.neighbors, copy.counts = self.neighbors.snapshot(), self.counts.snapshot()
        copy.coordinates = self.coordinates.snapshot()
        # These change in place at earlier tokens as well.
        copy.readers, copy.distances = self.readers.copy(), self.distances.copy()
        copy.bridges, copy.born = self.bridges.clone(), self.born.clone()
        return copy

    @classmethod
    def stack(cls, parts: Sequence[Prefix]) -> Prefix:
        """Join the texts of several into one batch."""
        joined = cls()
        for name in ("neighbors", "counts", "readers", "distances", "coordinates"):
            setattr(joined, name, RowBuffer.stack([getattr(p, name) for p in parts]))
        for name in ("bridges", "born"):
            setattr(joined, name, torch.cat([getattr(p, name) for p in parts]))
        return joined


class Arcs:
    """The edges of one text as arcs in both directions, each once, sorted by where they start."""

    def __init__(self, neighbors: Tensor, counts: Tensor) -> None:
        """neighbors [S,E] int32, of which counts [S] are valid."""
        targets, degree = neighbors.numpy(), counts.numpy()
        size = max(len(targets), 1)
        reader = np.repeat(np.arange(len(targets)), degree)
        read = targets[np.arange(targets.shape[1]) < degree[:, None]].astype(np.int64)
        codes = np.unique(np.concatenate([reader * size + read, read * size + reader]))
        self.source, self.target = codes // size, (codes % size).astype(np.int32)
        self.latest = np.maximum(self.source, self.target)

    def before(self, border: int) -> tuple[Tensor, Tensor]:
        """The graph of the first N tokens: indptr [N+1] int64, indices [A] int32."""
        kept = self.latest < border
        indptr = np.zeros(border + 1, np.int64)
        np.cumsum(np.bincount(self.source[kept], minlength=border), out=indptr[1:])
        return torch.from_numpy(indptr), torch.from_numpy(self.target[kept])


def borders(first: int, length: int, chunk: int) -> list[int]:
    """The borders that serve tokens first … first + length − 1 and no earlier ones, in order."""
    found = []
    border = -(-max(first, 1) // chunk) * chunk
    while border < first + length:
        step = _step(border, chunk)
        border = -(-border // step) * step  # the first at or after it that is one
        if border < first + length:
            found.append(border)
        border += chunk
    return found


def _step(border: int, chunk: int) -> int:
    """What a border at this place must be a multiple of: `chunk` times a power of two."""
    return chunk << max((border // (chunk * PER_OCTAVE)).bit_length() - 1, 0)
