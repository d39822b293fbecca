"""The memory: items and an index that follow one stream of changes.

Every change is a record. It goes to the journal first, and then to `_apply`, which is all that ever
alters the memory; opening one replays the records of its journal through the same function. So what
comes back after a crash is what was there, by construction.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from state_core.errors import ConfigError, InputError, StorageError, StoreError
from state_core.memory import checks
from state_core.memory.exact_memory import best, nearest, similarities
from state_core.memory.home import Home
from state_core.memory.journal import Record
from state_core.memory.locks import SharedLock
from state_core.memory.manifest import Manifest
from state_core.memory.protocol import (
    Bools,
    Floats,
    Hits,
    Index,
    Ints,
    MemoryStore,
    Order,
    Space,
    Stats,
    Vectors,
)
from state_core.memory.table import Table
from state_core.memory.tuning import narrowest

COMPACT_ABOVE = 0.5  # share of tombstones
FEWEST_TOMBSTONES = 64  # that are worth compacting
MOST_FILTERED_OUT = 0.75  # share; beyond, an index would be asked for too many items


class Store(MemoryStore):
    """A `MemoryStore` of any kind; `state_core.memory.open` makes one.

    index: None to search exactly. home: None to live in main memory alone.
    exact_below: with fewer items to choose from, the index is not asked.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: Index | None,
        home: Home | None,
        *,
        exact_below: int,
        read_only: bool = False,
    ) -> None:
        self._manifest, self._index, self._home = manifest, index, home
        self._exact_below, self._read_only = exact_below, read_only
        self._table = Table(manifest.dim)
        self._generation, self._next_id = manifest.generation, manifest.next_id
        self._clock, self._fallbacks = manifest.clock, 0
        self._writers, self._counters = threading.RLock(), threading.Lock()
        self._lock = SharedLock()
        self._unusable: str | None = None
        self._closed = False

    # --- what it is -----------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return self._manifest.kind

    @property
    def dim(self) -> int:
        return self._manifest.dim

    @property
    def space(self) -> Space:
        return self._manifest.space

    @property
    def generation(self) -> int:
        return self._generation

    def __len__(self) -> int:
        return self._table.live

    def stats(self) -> Stats:
        with self._lock.shared():
            table, index = self._table, self._index
            return Stats(
                live=table.live,
                tombstones=table.rows - table.live,
                capacity=table.capacity,
                generation=self._generation,
                bytes=table.bytes + (index.bytes if index else 0),
                ef=index.ef if index else 0,
                fallbacks=self._fallbacks,
            )

    # --- changes --------------------------------------------------------------------------------

    def add(
        self,
        vectors: Vectors,
        documents: Ints | Sequence[int] | int,
        positions: Ints | Sequence[int] | int,
    ) -> Ints:
        found = self._prepared(vectors, "vectors")
        arrays: dict[str, NDArray[Any]] = {
            "vectors": found,
            "documents": checks.integers(documents, "documents", len(found)),
            "positions": checks.integers(positions, "positions", len(found)),
        }
        with self._writers:
            ids = np.arange(self._next_id, self._next_id + len(found))
            if len(ids):
                self._commit("add", {"ids": ids, **arrays})
        return ids

    def delete(self, ids: Ints | Sequence[int]) -> None:
        wanted = np.unique(checks.integers(ids, "ids"))
        with self._writers:
            self._rows(wanted)
            if len(wanted):
                self._commit("delete", {"ids": wanted})

    def evict(self, keep: int, by: Order) -> Ints:
        keep = checks.count(keep, "keep", 0)
        if by not in ("age", "use"):
            raise ConfigError(f"a memory evicts by 'age' or by 'use', not by {by!r}")
        with self._writers:
            rows = np.flatnonzero(self._table.alive)
            if by == "use":
                rows = rows[np.argsort(self._table.used[rows], kind="stable")]
            ids = np.sort(self._table.ids[rows[: max(0, len(rows) - keep)]])
            self.delete(ids)
        return ids

    def compact(self) -> None:
        with self._writers:
            if self._table.live < self._table.rows:
                self._commit("compact", {})

    def tune(self, queries: Vectors, k: int, recall: float) -> int:
        found, k = self._prepared(queries, "queries"), checks.count(k, "k", 1)
        if not 0 < recall <= 1 or not len(found):
            raise InputError(f"tuning needs queries and a recall in (0, 1], got {recall}")
        if not (self._index and self._index.ef):
            return 0
        with self._writers:
            with self._lock.exclusive():
                rows = np.flatnonzero(self._table.alive)
                exact = nearest(self._table.vectors, rows, found, k)[0]
                wanted = np.where(exact >= 0, self._table.ids[exact], -1)
                ef = narrowest(self._index, found, wanted, recall)
            self._commit("tune", {"ef": np.array([ef])})
        return ef

    def _commit(self, operation: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Make a change: on the disk, and only then in main memory."""
        self._require_usable()
        if self._read_only:
            raise StoreError("this memory was opened read_only: open it without, to change it")
        record = Record(operation, self._generation + 1, arrays)
        try:
            if self._home:
                self._home.append(record)
            with self._lock.exclusive():
                self._apply(record)
        except StorageError:  # the journal took it back
            raise
        except BaseException:
            self._unusable = "a change failed half way: open it again, or add its items anew"
            raise

    def _apply(self, record: Record) -> None:
        arrays = record.arrays
        if record.operation == "add":
            self._insert(arrays)
        elif record.operation == "delete":
            self._remove(arrays["ids"])
        elif record.operation == "compact":
            self._compact()
        elif self._index:
            self._index.ef = int(arrays["ef"][0])
        self._generation = record.generation

    def _insert(self, arrays: Any) -> None:
        ids, self._clock = arrays["ids"], self._clock + 1
        state = {"used": np.full(len(ids), self._clock), "alive": np.ones(len(ids), np.bool_)}
        self._table.append({**arrays, **state})
        self._next_id = int(ids[-1]) + 1
        if self._index:
            self._index.add(ids, arrays["vectors"])

    def _remove(self, ids: Ints) -> None:
        self._table.bury(self._table.find(ids))
        tombstones = self._table.rows - self._table.live
        if tombstones >= FEWEST_TOMBSTONES and tombstones > COMPACT_ABOVE * self._table.rows:
            self._compact()
        elif self._index:
            self._index.remove(ids)

    def _compact(self) -> None:
        self._table.compact()
        if self._index:
            self._index.rebuild(self._table.ids, self._table.vectors)

    # --- questions ------------------------------------------------------------------------------

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        documents: Sequence[int] | None = None,
        positions: tuple[int, int] | None = None,
    ) -> Hits:
        found, k = self._prepared(queries, "queries"), checks.count(k, "k", 1)
        within = None if positions is None else checks.half_open(positions, "positions")
        of = None if documents is None else checks.integers(documents, "documents")
        with self._lock.shared():
            self._require_usable()
            rows, scores = self._search(found, k, self._table.select(of, within))
            ids = np.full(rows.shape, -1)
            ids[rows >= 0] = self._table.ids[rows[rows >= 0]]
            with self._counters:
                self._clock += 1
                self._table.used[rows[rows >= 0]] = self._clock
        return Hits(ids, scores)

    def locate(self, ids: Ints | Sequence[int]) -> tuple[Ints, Ints]:
        wanted = checks.integers(ids, "ids")
        with self._lock.shared():
            self._require_usable()
            rows = self._rows(wanted)
            return self._table.documents[rows], self._table.positions[rows]

    def _search(self, queries: Floats, k: int, chosen: Bools) -> tuple[Ints, Floats]:
        """Rows [Q,k] and similarities [Q,k] of the best among the rows that are chosen [N]."""
        left, live = int(np.count_nonzero(chosen)), self._table.live
        few = left <= self._exact_below or left < (1 - MOST_FILTERED_OUT) * live
        if self._index is None or few:
            return nearest(self._table.vectors, np.flatnonzero(chosen), queries, k)
        rows, scores = self._approximate(self._index, queries, k, chosen, live / left)
        short = (rows >= 0).sum(1) < min(k, left)
        if short.any():
            with self._counters:
                self._fallbacks += int(short.sum())
            rows[short], scores[short] = nearest(
                self._table.vectors, np.flatnonzero(chosen), queries[short], k
            )
        return rows, scores

    def _approximate(
        self, index: Index, queries: Floats, k: int, chosen: Bools, surplus: float
    ) -> tuple[Ints, Floats]:
        """The best of what the index finds; `surplus` times more is asked for than is wanted."""
        wanted = k if surplus == 1 else math.ceil(k * surplus) + k
        rows = self._table.find(index.search(queries, min(wanted, self._table.live)))
        rows = np.where(chosen[rows], rows, -1)
        rows = -np.sort(-rows, axis=1)  # the most recent first: `best` keeps that among equals
        return best(rows, similarities(self._table.vectors, rows, queries), k)

    # --- the disk -------------------------------------------------------------------------------

    def save(self) -> None:
        if self._home is None:
            raise InputError("this memory has no path to be saved to: give `open` one")
        with self._writers:
            self._require_usable()
            if self._read_only:
                raise StoreError("this memory was opened read_only: open it without, to save it")
            items = {name: torch.from_numpy(c) for name, c in self._table.columns().items()}
            index = self._index
            self._home.save(
                self.manifest(), items, lambda folder: index.save(folder) if index else None
            )

    def manifest(self) -> Manifest:
        """The memory as a snapshot of this moment would describe it."""
        return Manifest(
            **{
                **vars(self._manifest if self._home is None else self._home.manifest),
                "generation": self._generation,
                "clock": self._clock,
                "next_id": self._next_id,
                "live": self._table.live,
                "tombstones": self._table.rows - self._table.live,
                "parameters": self._index.parameters if self._index else self._manifest.parameters,
            }
        )

    def restore(self, items: dict[str, torch.Tensor], records: Sequence[Record]) -> None:
        """Hold a snapshot's items and the changes since. For a memory that was just made."""
        if items:
            self._table.append({name: column.numpy() for name, column in items.items()})
        if self._index and self._home:
            alive = self._table.alive
            ids, vectors = self._table.ids[alive], self._table.vectors[alive]
            self._index.restore(self._home.snapshot, ids, vectors)
        for record in records:
            self._apply(record)

    def close(self) -> None:
        with self._writers, self._lock.exclusive():
            if self._closed:
                return
            self._closed, self._unusable = True, "it was closed: open it again"
            if self._index:
                self._index.close()
            if self._home:
                self._home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- checks ---------------------------------------------------------------------------------

    def _prepared(self, given: Vectors, what: str) -> Floats:
        """Checked vectors, of length 1 where the space is cosine; zero stays zero."""
        found = checks.vectors(given, self.dim, what)
        if self.space == "ip":
            return found
        # In float64, whose squares of float32 numbers neither overflow nor vanish.
        norms = np.sqrt(np.square(found, dtype=np.float64).sum(1, keepdims=True))
        return np.divide(found, norms, out=np.zeros_like(found), where=norms > 0, casting="unsafe")

    def _rows(self, ids: Ints) -> Ints:
        rows = self._table.find(ids)
        if (rows < 0).any():
            raise InputError(f"this memory holds no item {ids[rows < 0][0]}")
        return rows

    def _require_usable(self) -> None:
        if self._unusable:
            raise StoreError(f"this memory cannot be used: {self._unusable}")
