"""Milvus embedded in the memory's folder, and brought in line with it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from state_core import memory
from state_core.errors import MissingExtraError
from tests.memory.conftest import DIM, normal


def test_lives_in_the_folder_and_follows_the_journal(tmp_path: Path):
    with memory.open("milvus", tmp_path, DIM, exact_below=0) as store:
        store.add(normal(30, DIM), 0, np.arange(30))
        store.save()
        store.delete([3, 4])
        before = store.search(normal(5, DIM, seed=1), 6)
        # As if Milvus had lost the last change, and kept one that was never acknowledged.
        store._index.add(np.array([3, 77]), normal(2, DIM))
        store._index.remove(np.array([8]))
    assert (tmp_path / "milvus.db").exists()
    with memory.open("milvus", tmp_path, exact_below=0) as store:
        held = store._index.search(normal(1, DIM), 100)[0]
        assert sorted(held[held >= 0]) == sorted(set(range(30)) - {3, 4})
        after = store.search(normal(5, DIM, seed=1), 6)
        assert np.array_equal(before.ids, after.ids)
        assert np.array_equal(before.similarities, after.similarities)


def test_without_pymilvus_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[milvus\]"):
        memory.open("milvus", dim=3)
