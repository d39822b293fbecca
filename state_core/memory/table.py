"""The items of a memory, one a row, in buffers that grow by doubling.

Rows lie in the order of their ids, which only grow, so that an id is found by bisection. A deleted
item leaves a tombstone until the table is compacted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state_core.memory.protocol import Bools, Floats, Ints

SMALLEST = 64  # rows of the first buffer
COLUMNS: dict[str, type[np.generic]] = {
    "vectors": np.float32,
    "ids": np.int64,
    "documents": np.int64,
    "positions": np.int64,
    "used": np.int64,
    "alive": np.bool_,
}


class Table:
    """Columns of N rows: `vectors` [N,dim] float32; `ids`, `documents`, `positions` and `used`,
    when a search last returned the item, [N] int64; `alive` [N] bool."""

    def __init__(self, dim: int) -> None:
        self.dim, self.rows, self.live = dim, 0, 0
        self._buffers = {name: self._buffer(name, SMALLEST) for name in COLUMNS}

    @property
    def vectors(self) -> Floats:
        return self._buffers["vectors"][: self.rows]

    @property
    def ids(self) -> Ints:
        return self._buffers["ids"][: self.rows]

    @property
    def documents(self) -> Ints:
        return self._buffers["documents"][: self.rows]

    @property
    def positions(self) -> Ints:
        return self._buffers["positions"][: self.rows]

    @property
    def used(self) -> Ints:
        return self._buffers["used"][: self.rows]

    @property
    def alive(self) -> Bools:
        return self._buffers["alive"][: self.rows]

    @property
    def capacity(self) -> int:
        return len(self._buffers["ids"])

    @property
    def bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def columns(self) -> dict[str, NDArray[Any]]:
        """Every column, tombstones included, without a copy."""
        return {name: buffer[: self.rows] for name, buffer in self._buffers.items()}

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows, given as every column; their ids must exceed those that are here."""
        start, stop = self.rows, self.rows + len(columns["ids"])
        if stop > self.capacity:
            self._grow(max(stop, 2 * self.capacity))
        for name, buffer in self._buffers.items():
            buffer[start:stop] = columns[name]
        self.rows = stop
        self.live += int(np.count_nonzero(columns["alive"]))

    def find(self, ids: Ints) -> Ints:
        """Rows of live items, -1 for an id that is not alive; of the shape of `ids`."""
        if not self.rows:
            return np.full(ids.shape, -1)
        # Until something in between was compacted away, a row is its id less the first one.
        if self.ids[-1] - self.ids[0] == self.rows - 1:
            rows = ids - self.ids[0]
        else:
            rows = np.searchsorted(self.ids, ids)
        near = rows.clip(0, self.rows - 1)
        return np.where((self.ids[near] == ids) & self.alive[near], near, -1)

    def bury(self, rows: Ints) -> None:
        """Turn live rows, each given once, into tombstones."""
        self.alive[rows] = False
        self.live -= len(rows)

    def compact(self) -> None:
        """Drop tombstones, and room that is no longer needed."""
        kept = {name: column[self.alive] for name, column in self.columns().items()}
        self.rows = self.live = 0
        self._buffers = {name: self._buffer(name, SMALLEST) for name in COLUMNS}
        self.append(kept)

    def select(self, documents: Ints | None, positions: tuple[int, int] | None) -> Bools:
        """Which rows are alive, of one of the documents, and within the positions; [N] bool."""
        chosen = self.alive
        if documents is not None:
            chosen = chosen & np.isin(self.documents, documents)
        if positions is not None:
            start, stop = positions
            chosen = chosen & (self.positions >= start) & (self.positions < stop)
        return chosen

    def _grow(self, capacity: int) -> None:
        for name, old in self._buffers.items():
            self._buffers[name] = self._buffer(name, capacity)
            self._buffers[name][: self.rows] = old[: self.rows]

    def _buffer(self, name: str, capacity: int) -> NDArray[Any]:
        shape = (capacity, self.dim) if name == "vectors" else (capacity,)
        return np.empty(shape, COLUMNS[name])
