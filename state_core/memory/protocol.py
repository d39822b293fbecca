"""What every memory does, whatever finds its neighbours.

Shapes: N items, Q queries, K hits per query, dim width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Vectors = Floats | Tensor
"""float32, a numpy array or a tensor on the CPU."""
Space = Literal["ip", "cosine"]
Order = Literal["age", "use"]


@dataclass(frozen=True)
class Hits:
    """What a search found, best first; among equals the most recent item comes first.

    ids [Q,K] int64, -1 where there is none; similarities [Q,K] float32, -inf there.
    """

    ids: Ints
    similarities: Floats


@dataclass(frozen=True)
class Stats:
    """The state of a memory in numbers."""

    live: int
    tombstones: int
    """Items that were deleted and still take room; compaction removes them."""
    capacity: int
    """Items that fit before the buffers grow."""
    generation: int
    """Changes since the memory was made."""
    bytes: int
    """Main memory held by items and index."""
    ef: int
    """Breadth of an approximate search; 0 where searches are exact."""
    fallbacks: int
    """Queries answered exactly because the index had found fewer than there are."""


class MemoryStore(Protocol):
    """Vectors with the document and position that they stand for, found again by similarity.

    One writer and any number of readers may work at once, from threads of one process.
    """

    @property
    def kind(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def space(self) -> Space: ...
    @property
    def generation(self) -> int:
        """Moves by one with every change, and comes back with a memory that is opened again."""

    def __len__(self) -> int:
        """Live items."""

    def add(
        self,
        vectors: Vectors,
        documents: Ints | Sequence[int] | int,
        positions: Ints | Sequence[int] | int,
    ) -> Ints:
        """Store vectors [N,dim] and where each comes from, [N] each or one for all.

        Returns their ids [N], which grow from call to call and are never used again. With a path
        they are on the disk when this returns.

        Raises InputError for a wrong width, type or length and for NaN or infinity.
        """

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        documents: Sequence[int] | None = None,
        positions: tuple[int, int] | None = None,
    ) -> Hits:
        """The k live items most similar to each of queries [Q,dim].

        documents: only items of these. positions: only items at start <= position < stop. Where
        fewer than k items are left, hits end in padding.
        """

    def locate(self, ids: Ints | Sequence[int]) -> tuple[Ints, Ints]:
        """Documents and positions [N] of items [N]; InputError for an id that is not alive."""

    def delete(self, ids: Ints | Sequence[int]) -> None:
        """Forget items; InputError for an id that is not alive, and nothing is deleted then."""

    def evict(self, keep: int, by: Order) -> Ints:
        """Delete all but `keep` items: the oldest go ("age"), or the least recently found ("use").

        Returns the ids that were deleted, in increasing order.
        """

    def compact(self) -> None:
        """Give back the room of deleted items. It happens by itself when they are the majority."""

    def stats(self) -> Stats: ...

    def tune(self, queries: Vectors, k: int, recall: float) -> int:
        """Choose the narrowest search that finds this share of the k exact nearest of queries.

        Returns ef, which is kept with the memory; 0 where searches are exact anyway. Raises
        StoreError if no breadth reaches the recall; the old one then stays.
        """

    def save(self) -> None:
        """Write a snapshot, so that opening need not repeat every change since the last one."""

    def close(self) -> None:
        """Let others write. Changes are on the disk already, saved or not."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Index(Protocol):
    """What finds neighbours faster than looking at every item: all that kinds differ in.

    It holds live items by id, and may miss some in a search. Vectors are normalised already where
    the space is cosine, so that every index maximises inner products.
    """

    @property
    def parameters(self) -> dict[str, int]:
        """What a snapshot keeps and opening gives back to the constructor."""

    @property
    def bytes(self) -> int: ...

    ef: int

    def add(self, ids: Ints, vectors: Floats) -> None: ...
    def remove(self, ids: Ints) -> None: ...
    def rebuild(self, ids: Ints, vectors: Floats) -> None:
        """Start over with these items alone."""

    def search(self, queries: Floats, k: int) -> Ints:
        """Ids [Q,k] of near items in any order, -1 where none was found."""

    def save(self, folder: Path) -> None:
        """Write what `restore` needs into a snapshot's folder."""

    def restore(self, folder: Path, ids: Ints, vectors: Floats) -> None:
        """Hold the items of a snapshot again; StoreError if the folder does not hold these."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where an index works. folder: the memory's own, None for one that lives in main memory."""

    dim: int
    store: str
    """A name that no other memory has."""
    folder: Path | None
