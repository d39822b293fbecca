"""Search by Milvus: embedded (milvus-lite) in the memory's folder, or a cluster.

Milvus is the index alone. The memory's own journal and snapshot remain the truth: ids are never
used again and a vector never changes, so a collection is brought in line with them by its ids.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from state_core.errors import MissingExtraError, StoreError
from state_core.memory.protocol import Floats, Ints, Place

DATABASE = "milvus.db"
BATCH = 4096  # items per call; a cluster refuses messages beyond 64 MB
MOST_HITS = 16384  # per query, Milvus's own limit


class MilvusIndex:
    """Items in a Milvus collection over inner products.

    uri, token: of a cluster; None for the embedded one, in the memory's folder or, without one, in
    a temporary folder that `close` removes.
    """

    ef = 0

    def __init__(self, place: Place, *, uri: str | None = None, token: str | None = None) -> None:
        self._dim, self._name = place.dim, f"sosm_{place.store}"
        self._lasting, self._embedded = place.folder is not None, uri is None
        self._temporary = None
        if uri is None and place.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sosm-milvus-")
        if uri is None:
            folder = Path(self._temporary.name) if self._temporary else place.folder
            assert folder is not None
            folder.mkdir(parents=True, exist_ok=True)
            uri = str(folder / DATABASE)
        self._uri = uri
        self._client = _connect(uri, token)
        if self._client.has_collection(self._name):
            self._client.load_collection(self._name)
        else:
            self._create()

    @property
    def parameters(self) -> dict[str, int]:
        return {}

    @property
    def bytes(self) -> int:
        return 0  # they are Milvus's

    def add(self, ids: Ints, vectors: Floats) -> None:
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            rows = [{"id": int(i), "vector": v} for i, v in zip(ids[part], vectors[part])]
            self._client.insert(self._name, rows)

    def remove(self, ids: Ints) -> None:
        for start in range(0, len(ids), BATCH):
            self._client.delete(self._name, ids=ids[start : start + BATCH].tolist())

    def rebuild(self, ids: Ints, vectors: Floats) -> None:
        self._client.drop_collection(self._name)
        self._create()
        self.add(ids, vectors)

    def search(self, queries: Floats, k: int) -> Ints:
        found = np.full((len(queries), k), -1)
        answers = self._client.search(
            self._name,
            data=list(queries),
            anns_field="vector",
            limit=min(k, MOST_HITS),
            output_fields=["id"],
        )
        for line, answer in zip(found, answers, strict=True):
            line[: len(answer)] = [hit["id"] for hit in answer]
        return found

    def save(self, folder: Path) -> None:
        """Nothing: a collection is its own storage, and can be made again from the items."""

    def restore(self, folder: Path, ids: Ints, vectors: Floats) -> None:
        if not len(ids):
            return self.rebuild(ids, vectors)
        first, stop = int(ids[0]), int(ids[-1]) + 1
        self._client.delete(self._name, filter=f"id < {first} or id >= {stop}")
        held = self._held(first, stop)
        self.remove(np.setdiff1d(held, ids))
        new = ~np.isin(ids, held)
        return self.add(ids[new], vectors[new])

    def close(self) -> None:
        if not self._lasting:
            self._client.drop_collection(self._name)
        self._client.close()
        if not self._embedded:
            return
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(self._uri)
        if self._temporary:
            self._temporary.cleanup()

    def _held(self, first: int, stop: int) -> Ints:
        """The ids in the collection, of those between."""
        found: list[int] = []
        for start in range(first, stop, BATCH):
            between = f"id >= {start} and id < {min(start + BATCH, stop)}"
            rows = self._client.query(self._name, filter=between, output_fields=["id"], limit=BATCH)
            found.extend(row["id"] for row in rows)
        return np.array(found, np.int64)

    def _create(self) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(self._name, schema=schema, consistency_level="Strong")
        # Of no items yet: waiting for it would only sleep.
        self._client.create_index(self._name, index, sync=False)
        self._client.load_collection(self._name)


def _connect(uri: str, token: str | None) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError:
        raise MissingExtraError("pymilvus", "milvus", "a memory of kind 'milvus'") from None
    try:
        return MilvusClient(uri, token=token or "")
    except MilvusException as error:
        hint = ""
        if uri.endswith(DATABASE):
            hint = ". It can be deleted: it is made again from the items"
        raise StoreError(f"Milvus cannot open {uri}: {error}{hint}") from error
