from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from state_core import memory
from state_core.memory import Store

DIM = 6
# Every kind that is registered, its index at work on few items. So broad a search of a graph misses
# none of them.
WAYS = {
    kind: (kind, {"exact_below": 0} | ({"ef": 256} if kind == "hnsw" else {}))
    for kind in memory.KINDS
} | {"hnsw, few items": ("hnsw", {})}


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Milvus to be shared, as a cluster would be: starting one takes long."""
    return str(tmp_path_factory.mktemp("milvus") / "shared.db")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest):
    """A kind and its options."""
    kind, options = WAYS[request.param]
    if kind == "milvus":
        options = options | {"uri": request.getfixturevalue("milvus")}
    return kind, options


@pytest.fixture
def store(way) -> Iterator[Store]:
    """An empty memory of every kind, over DIM-wide vectors and inner products."""
    kind, options = way
    with memory.open(kind, dim=DIM, **options) as opened:
        yield opened


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
