"""What only an approximate index can get wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from state_core import memory
from state_core.errors import MissingExtraError, StoreError
from state_core.memory import Store
from state_core.memory.hnsw_memory import INDEX_FILE
from state_core.memory.tuning import recall_of
from tests.memory.conftest import normal

DIM, COUNT = 16, 4000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "m"
    with memory.open("hnsw", path, DIM, space="cosine", exact_below=0, m=8) as store:
        store.add(normal(COUNT, DIM), np.arange(COUNT) % 10, np.arange(COUNT))
        store.save()
    return path


@pytest.fixture
def store(saved: Path):
    with memory.open("hnsw", saved, read_only=True, exact_below=0) as opened:
        yield opened


def recall(store: Store, queries: np.ndarray, k: int) -> float:
    with memory.open("exact", dim=DIM, space="cosine") as exact:
        exact.add(normal(COUNT, DIM), 0, 0)
        return recall_of(store.search(queries, k).ids, exact.search(queries, k).ids)


def test_tuning_is_kept(saved: Path):
    queries = normal(200, DIM, seed=1)
    found = []
    for wanted in (0.5, 0.99):
        with memory.open("hnsw", saved, exact_below=0) as store:
            ef = store.tune(queries, 10, wanted)
            assert recall(store, queries, 10) >= wanted
        with memory.open("hnsw", saved, exact_below=0) as store:
            assert store.stats().ef == ef
            store.save()
        with memory.open("hnsw", saved, exact_below=0) as store:
            assert store.stats().ef == store.manifest().parameters["ef"] == ef
            assert recall(store, queries, 10) >= wanted
        found.append(ef)
    assert found[0] < found[1] < COUNT


def test_a_recall_out_of_reach_changes_nothing(tmp_path: Path):
    """Long vectors are near to everything and hide the others: a graph of two links misses them."""
    vectors = normal(3000, DIM) * np.geomspace(1, 1e6, 3000, dtype=np.float32)[:, None]
    with memory.open("hnsw", dim=DIM, m=2, ef_construction=2, exact_below=0) as store:
        store.add(vectors, 0, 0)
        store.delete(np.arange(2000, 3000))
        with pytest.raises(StoreError, match="larger m and ef_construction"):
            store.tune(normal(50, DIM), 10, 1.0)
        assert (store.stats().ef, store.generation) == (64, 2)


def test_many_hits_need_no_tuning(store: Store):
    """hnswlib's ef is at least k."""
    hits = store.search(normal(3, DIM), 500)
    assert (hits.ids >= 0).all()
    assert recall(store, normal(20, DIM, seed=3), 500) > 0.95


def test_mild_filters_search_the_graph(store: Store, monkeypatch: pytest.MonkeyPatch):
    asked = []
    search = store._index.search

    def spy(queries: np.ndarray, k: int) -> np.ndarray:
        asked.append(k)
        return search(queries, k)

    monkeypatch.setattr(store._index, "search", spy)
    queries = normal(20, DIM, seed=4)
    hits = store.search(queries, 5, documents=range(5))
    assert asked == [15]
    assert (hits.ids % 10 < 5).all()
    assert (store.search(queries, 5, documents=[3]).ids % 10 == 3).all()
    assert asked == [15]  # a tenth is looked at in full


def test_what_the_graph_misses_is_found_exactly(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store._index, "search", lambda queries, k: np.full((len(queries), k), -1))
    hits = store.search(normal(6, DIM), 4)
    assert (hits.ids >= 0).all()
    assert store.stats().fallbacks == 6


def test_too_few_items_do_not_raise():
    """hnswlib alone raises where it finds fewer than k."""
    with memory.open("hnsw", dim=DIM, exact_below=0) as store:
        ids = store.add(normal(40, DIM), 0, 0)
        store.delete(ids[5:30])
        hits = store.search(normal(3, DIM), 20)
        assert ((hits.ids >= 0).sum(1) == 15).all()
        store.delete(np.r_[ids[:5], ids[30:]])
        assert (store.search(normal(3, DIM), 20).ids == -1).all()


def test_the_same_changes_build_the_same_graph(tmp_path: Path):
    files = []
    for name, step in (("a", 500), ("b", 125)):
        with memory.open("hnsw", tmp_path / name, DIM) as store:
            for start in range(0, 1500, step):
                store.add(normal(1500, DIM)[start : start + step], 0, 0)
            store.save()
        (index,) = (tmp_path / name).glob(f"*/{INDEX_FILE}")
        files.append(index.read_bytes())
    assert files[0] == files[1]


def test_without_hnswlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[memory\]"):
        memory.open("hnsw", dim=3)
    memory.open("exact", dim=3).close()
