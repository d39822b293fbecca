"""What a memory does, the same for every kind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from state_core import memory
from state_core.errors import ConfigError, InputError, StoreError
from state_core.memory import Store
from state_core.memory import store as store_module
from tests.memory.conftest import DIM, WAYS, normal


def fill(store: Store, count: int, *, document: int = 0, seed: int = 0) -> np.ndarray:
    vectors = normal(count, DIM, seed=seed)
    store.add(vectors, document, np.arange(count))
    return vectors


def expected(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(float) @ vectors.astype(float).T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, 1)


def test_finds_the_nearest(store: Store):
    vectors, queries = fill(store, 300), normal(20, DIM, seed=1)
    hits = store.search(queries, 7)
    ids, scores = expected(vectors, queries, 7)
    assert hits.ids.dtype == np.int64
    assert hits.similarities.dtype == np.float32
    assert np.array_equal(hits.ids, ids)
    assert np.allclose(hits.similarities, scores, atol=1e-5)


def test_a_query_gets_the_same_bits_alone(store: Store):
    fill(store, 200)
    queries = normal(9, DIM, seed=1)
    together = store.search(queries, 5)
    for row, query in enumerate(queries):
        alone = store.search(query[None], 5)
        assert np.array_equal(alone.ids[0], together.ids[row])
        assert np.array_equal(alone.similarities[0], together.similarities[row])


def test_every_kind_gives_the_same_bits():
    found = []
    for kind, options in WAYS.values():
        with memory.open(kind, dim=DIM, space="cosine", **options) as store:
            fill(store, 150)
            found.append(store.search(normal(8, DIM, seed=1), 6))
    for hits in found[1:]:
        assert np.array_equal(hits.ids, found[0].ids)
        assert np.array_equal(hits.similarities, found[0].similarities)


def test_ties_go_to_the_most_recent(store: Store):
    vectors = np.repeat(normal(4, DIM), 5, axis=0)
    store.add(vectors, 0, np.arange(20))
    for row in range(4):
        hits = store.search(vectors[5 * row : 5 * row + 1], 5)
        same = hits.ids[0][hits.similarities[0] == hits.similarities[0, 0]]
        assert list(same) == sorted(same, reverse=True)
        assert hits.ids[0, 0] % 5 == 4


def test_fewer_than_k_are_padded(store: Store):
    assert store.search(normal(2, DIM), 3).ids.tolist() == [[-1] * 3] * 2
    fill(store, 2)
    hits = store.search(normal(2, DIM), 4)
    assert (hits.ids[:, 2:] == -1).all()
    assert (hits.similarities[:, 2:] == -np.inf).all()
    assert np.isfinite(hits.similarities[:, :2]).all()


def test_cosine_takes_no_notice_of_length(way):
    kind, options = way
    vectors, queries = normal(50, DIM), normal(5, DIM, seed=1)
    scale = np.geomspace(1e-20, 1e20, 50, dtype=np.float32)[:, None]
    with memory.open(kind, dim=DIM, space="cosine", **options) as store:
        store.add(vectors * scale, 0, np.arange(50))
        hits = store.search(queries * np.float32(7), 4)
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries)]
        assert np.array_equal(hits.ids, expected(*unit, 4)[0])
        store.add(np.zeros((1, DIM), np.float32), 0, 0)
        assert (store.search(np.zeros((1, DIM), np.float32), 3).similarities == 0).all()


def test_filters(store: Store):
    for document in range(3):
        fill(store, 100, document=document, seed=document)
    vectors = np.concatenate([normal(100, DIM, seed=d) for d in range(3)])
    queries = normal(6, DIM, seed=9)
    documents, positions = np.repeat(np.arange(3), 100), np.tile(np.arange(100), 3)
    for wanted, span in [([1], (10, 60)), ([0, 2], None), (None, (0, 90)), ([0, 1], (5, 99))]:
        allowed = np.isin(documents, range(3) if wanted is None else wanted)
        allowed &= (positions >= (span or (0, 100))[0]) & (positions < (span or (0, 100))[1])
        hits = store.search(queries, 8, documents=wanted, positions=span)
        ids = np.flatnonzero(allowed)[expected(vectors[allowed], queries, 8)[0]]
        assert np.array_equal(hits.ids, ids)
    assert (store.search(queries, 2, documents=[]).ids == -1).all()
    assert (store.search(queries, 2, documents=[77]).ids == -1).all()
    assert (store.search(queries, 2, positions=(5, 5)).ids == -1).all()


def test_ids_grow_and_are_never_used_again(store: Store):
    first = store.add(normal(5, DIM), 0, np.arange(5))
    store.delete(first[2:])
    store.compact()
    second = store.add(normal(3, DIM), 0, np.arange(3))
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert second.tolist() == [5, 6, 7]
    assert len(store) == 5


def test_locate_and_delete(store: Store):
    store.add(normal(4, DIM), [3, 3, 4, 4], np.array([7, 8, 9, 10]))
    documents, positions = store.locate([3, 0])
    assert (documents.tolist(), positions.tolist()) == ([4, 3], [10, 7])
    store.delete([0])
    assert 0 not in store.search(normal(4, DIM), 4).ids
    for wrong in ([0], [4], [-1], [1, 0]):
        with pytest.raises(InputError, match="no item"):
            store.locate(wrong)
        with pytest.raises(InputError, match="no item"):
            store.delete(wrong)
    assert len(store) == 3


def test_the_generation_counts_changes(store: Store):
    assert store.generation == 0
    store.add(normal(3, DIM), 0, np.arange(3))
    store.delete([1])
    store.search(normal(1, DIM), 1)
    store.add(normal(0, DIM), 0, np.arange(0))
    store.delete([])
    assert store.generation == 2
    store.compact()
    store.compact()
    assert store.generation == 3


def test_grows_without_bound(store: Store):
    vectors = normal(3000, DIM)
    for start in range(0, 3000, 250):
        store.add(vectors[start : start + 250], 0, np.arange(start, start + 250))
    assert store.stats().capacity >= 3000
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    best = store.search(unit[::100] * 100, 1)
    assert np.array_equal(best.ids, expected(vectors, unit[::100], 1)[0])


def test_tombstones_are_compacted_away(store: Store):
    vectors = fill(store, 400)
    store.delete(np.arange(0, 400, 4))
    assert store.stats().tombstones == 100
    store.compact()
    assert store.stats().tombstones == 0
    left = np.setdiff1d(np.arange(400), np.arange(0, 400, 4))
    queries = normal(10, DIM, seed=1)
    assert np.array_equal(
        store.search(queries, 5).ids, left[expected(vectors[left], queries, 5)[0]]
    )
    store.delete(left[:200])
    assert store.stats().tombstones == 0  # the majority: by itself
    assert np.array_equal(store.search(queries, 200).ids[:, 100:], np.full((10, 100), -1))


def test_evicts_the_oldest(store: Store):
    fill(store, 30)
    assert store.evict(keep=40, by="age").tolist() == []
    assert store.evict(keep=25, by="age").tolist() == [0, 1, 2, 3, 4]
    assert len(store) == 25


def test_evicts_what_is_not_used(store: Store):
    vectors = 10 * np.eye(DIM, dtype=np.float32)
    store.add(vectors, 0, np.arange(DIM))
    store.search(vectors[[0, 3]], 1)
    assert store.evict(keep=3, by="use").tolist() == [1, 2, 4]
    assert store.evict(keep=0, by="use").tolist() == [0, 3, 5]


def test_takes_tensors_and_views(store: Store):
    vectors = torch.randn(DIM, 8).T.requires_grad_()
    store.add(vectors, torch.zeros(8, dtype=torch.int64), torch.arange(8))
    frozen = vectors.detach().numpy().copy()
    frozen.flags.writeable = False
    assert np.array_equal(store.search(vectors, 2).ids, store.search(frozen, 2).ids)


def nan(value: float) -> np.ndarray:
    vectors = np.zeros((2, DIM), np.float32)
    vectors[1, 3] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (np.zeros((2, DIM + 1), np.float32), rf"\[N, {DIM}\]"),
        (np.zeros(DIM, np.float32), rf"\[N, {DIM}\]"),
        (np.zeros((2, DIM)), "float32"),
        (np.zeros((2, DIM), np.float16), "float32"),
        ([[0.0] * DIM], "float32"),
        (nan(np.nan), "NaN or infinity, first in row 1"),
        (nan(np.inf), "NaN or infinity, first in row 1"),
    ],
)
def test_bad_vectors_are_refused(store: Store, vectors, says: str):
    with pytest.raises(InputError, match=says):
        store.add(vectors, 0, 0)
    with pytest.raises(InputError, match=says):
        store.search(vectors, 1)
    assert store.generation == len(store) == 0


def test_other_bad_input_is_refused(store: Store):
    with pytest.raises(InputError, match="documents"):
        store.add(normal(2, DIM), [0], np.arange(2))
    with pytest.raises(InputError, match="positions must be integers"):
        store.add(normal(2, DIM), 0, np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="k must be"):
        store.search(normal(2, DIM), 0)
    with pytest.raises(InputError, match="start <= stop"):
        store.search(normal(2, DIM), 1, positions=(3, 2))
    with pytest.raises(InputError, match="keep"):
        store.evict(keep=-1, by="age")
    with pytest.raises(ConfigError, match="'age' or by 'use'"):
        store.evict(keep=1, by="size")
    with pytest.raises(InputError, match="recall"):
        store.tune(normal(2, DIM), 1, 1.5)
    with pytest.raises(InputError, match="no path"):
        store.save()
    assert store.generation == 0


def test_readers_see_whole_changes(store: Store):
    """Items come and go in pairs of opposite vectors, so a half change would be seen: each pair is
    longer than those before it, and so the nearest."""
    pair = np.array([[1] * DIM, [-1] * DIM], np.float32)
    wrong: list[object] = []
    done = threading.Event()

    def read():
        while not done.is_set():
            hits = store.search(pair, 1)
            found = hits.ids[:, 0]
            if not (found[0] + 1 == found[1] or (found == -1).all()):
                wrong.append(found)
            store.stats()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        store.add(pair * np.float32(turn + 1), turn, np.arange(2))
        if turn % 3 == 2:
            store.evict(keep=4, by="age")
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(store) == 4


def test_a_change_that_fails_half_way_is_not_hidden(store: Store, monkeypatch):
    fill(store, 5)

    def fail(*_: object):
        raise MemoryError

    monkeypatch.setattr(store_module.Table, "append", fail)
    with pytest.raises(MemoryError):
        fill(store, 5)
    with pytest.raises(StoreError, match="failed half way"):
        store.search(normal(1, DIM), 1)


def test_a_closed_memory_says_so(store: Store):
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.search(normal(1, DIM), 1)
    with pytest.raises(StoreError, match="closed"):
        store.add(normal(1, DIM), 0, 0)
    store.close()
