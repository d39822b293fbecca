"""The journal gives back what was appended, and takes nothing else for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import StorageError, StoreError
from state_core.memory.journal import EMPTY_JOURNAL, Journal, Record, read_journal

STORE = "a" * 32


def record(generation: int) -> Record:
    return Record("delete", generation, {"ids": np.arange(generation)})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of the generations 6, 7 and 8."""
    path = tmp_path_factory.mktemp("journal") / "j.wal"
    journal = Journal.create(path, STORE, 5)
    for generation in (6, 7, 8):
        journal.append(record(generation))
    journal.close()
    return path


def test_gives_back_what_was_appended(written: Path):
    records, length = read_journal(written, STORE, 5)
    assert length == written.stat().st_size
    assert [r.generation for r in records] == [6, 7, 8]
    assert all(np.array_equal(r.arrays["ids"], np.arange(r.generation)) for r in records)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_torn_tail_is_dropped(written: Path, share: float):
    whole = written.read_bytes()
    cut = EMPTY_JOURNAL + int(share * (len(whole) - EMPTY_JOURNAL))
    torn = written.with_name("torn.wal")
    for tail in (b"", bytes(40)):  # cut short, or zeros after a loss of power
        torn.write_bytes(whole[:cut])
        records, length = read_journal(torn, STORE, 5)
        assert length <= cut
        torn.write_bytes(whole[:length] + tail)
        again, end = read_journal(torn, STORE, 5)
        assert (len(again), end) == (len(records), length)
        journal = Journal(torn, length)
        journal.append(record(6 + len(records)))
        journal.close()
        assert len(read_journal(torn, STORE, 5)[0]) == len(records) + 1


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused(written: Path, where: float, flip: int):
    changed = bytearray(written.read_bytes())
    changed[int(where * len(changed))] ^= flip
    path = written.with_name("changed.wal")
    path.write_bytes(changed)
    with pytest.raises(StoreError, match=r"damaged|belongs to another"):
        read_journal(path, STORE, 5)


def test_it_belongs_to_one_snapshot_of_one_memory(written: Path):
    for store, generation in (("b" * 32, 5), (STORE, 6)):
        with pytest.raises(StoreError, match="belongs to another"):
            read_journal(written, store, generation)


def test_a_gap_is_refused(tmp_path: Path):
    journal = Journal.create(tmp_path / "j.wal", STORE, 0)
    journal.append(record(1))
    journal.append(record(3))
    journal.close()
    with pytest.raises(StoreError, match="from generation 1 to 3"):
        read_journal(tmp_path / "j.wal", STORE, 0)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal.create(tmp_path / "j.wal", STORE, 0)
    journal.append(record(1))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*was not made"):
            journal.append(record(2))
    journal.append(record(2))
    journal.close()
    assert [r.generation for r in read_journal(tmp_path / "j.wal", STORE, 0)[0]] == [1, 2]
