"""Approximate search in a hierarchical small-world graph (Malkov and Yashunin, arXiv 1603.09320).

hnswlib checks little: it loads an index into another space or width, takes NaN, forgets `ef` when
it saves, and raises where fewer than k items are found. The store that uses this index answers for
all of these; what is left to do here is capacity, labels and threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from state_core.errors import InputError, MissingExtraError, StoreError
from state_core.memory.protocol import Floats, Ints, Place

INDEX_FILE = "index.hnsw"
SMALLEST = 1024  # items of the first allocation
SEED = 100


class HNSWIndex:
    """Items in an HNSW graph over inner products.

    m: links of an item on each level (twice as many on the lowest). ef_construction: breadth of the
    search that links a new item. ef: breadth of later searches, see `MemoryStore.tune`. threads:
    that build; with 1 the graph depends on nothing but the order of changes.
    """

    def __init__(
        self,
        place: Place,
        *,
        m: int = 16,
        ef_construction: int = 200,
        ef: int = 64,
        threads: int = 1,
    ) -> None:
        if min(m - 1, ef_construction, ef, threads) < 1:
            raise InputError(
                "an HNSW graph needs m of at least 2, and ef_construction, ef and threads of at "
                f"least 1, got m={m}, ef_construction={ef_construction}, ef={ef}, threads={threads}"
            )
        self._dim, self._m, self._ef_construction = place.dim, m, ef_construction
        self._ef, self._threads = ef, threads
        self._index = self._new(SMALLEST)

    @property
    def parameters(self) -> dict[str, int]:
        return {"m": self._m, "ef_construction": self._ef_construction, "ef": self._ef}

    @property
    def bytes(self) -> int:
        return int(self._index.index_file_size())

    @property
    def ef(self) -> int:
        return self._ef

    @ef.setter
    def ef(self, ef: int) -> None:
        self._ef = ef
        self._index.set_ef(ef)

    def add(self, ids: Ints, vectors: Floats) -> None:
        if not len(ids):  # hnswlib reads the first vector whether there is one or not
            return
        needed, capacity = self._index.element_count + len(ids), self._index.max_elements
        if needed > capacity:
            self._index.resize_index(max(needed, 2 * capacity))
        self._index.add_items(vectors, ids, num_threads=self._threads)

    def remove(self, ids: Ints) -> None:
        for label in ids.tolist():
            self._index.mark_deleted(label)

    def rebuild(self, ids: Ints, vectors: Floats) -> None:
        self._index = self._new(max(SMALLEST, len(ids)))
        self.add(ids, vectors)

    def search(self, queries: Floats, k: int) -> Ints:
        try:
            labels, _ = self._index.knn_query(queries, k, num_threads=torch.get_num_threads())
        except RuntimeError as error:
            if "contiguous 2D array" not in str(error):
                raise
            # Some query reached fewer than k items; hnswlib does not say which one.
            return np.full((len(queries), k), -1)
        return np.asarray(labels.astype(np.int64))

    def save(self, folder: Path) -> None:
        self._index.save_index(str(folder / INDEX_FILE))

    def restore(self, folder: Path, ids: Ints, vectors: Floats) -> None:
        if not (folder / INDEX_FILE).exists():  # the snapshot of a memory that was just made
            return self.rebuild(ids, vectors)
        index = self._bare()
        try:
            index.load_index(str(folder / INDEX_FILE))
        except RuntimeError as error:
            raise StoreError(f"{folder / INDEX_FILE} is damaged: {error}") from error
        index.set_ef(self._ef)
        self._index = index
        return None

    def close(self) -> None:
        self._index = None

    def _new(self, capacity: int) -> Any:
        index = self._bare()
        index.init_index(capacity, self._m, self._ef_construction, SEED)
        index.set_ef(self._ef)
        return index

    def _bare(self) -> Any:
        try:
            import hnswlib
        except ImportError:
            raise MissingExtraError("hnswlib", "memory", "a memory of kind 'hnsw'") from None
        return hnswlib.Index(space="ip", dim=self._dim)
