"""What is in a memory's folder comes back whole or is refused (I8)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core import memory
from state_core.errors import ConfigError, InputError, StorageError, StoreError
from state_core.memory import Store, home
from state_core.memory.manifest import MANIFEST_FILE, read_manifest
from tests.memory.conftest import DIM, normal


def changes(store: Store, *, seed: int) -> None:
    """Some of every change."""
    ids = store.add(normal(40, DIM, seed=seed), seed, np.arange(40))
    store.delete(ids[::3])
    store.evict(keep=len(store) - 2, by="age")


def contents(store: Store) -> list:
    """All that a user can find out, as plain data."""
    hits = store.search(normal(12, DIM, seed=77), 9)
    ids = np.unique(hits.ids)
    where = store.locate(ids)
    stats = dataclasses.replace(store.stats(), bytes=0, capacity=0)
    return [hits.ids.tolist(), hits.similarities.tolist(), [w.tolist() for w in where], stats]


@pytest.fixture
def saved(way, tmp_path: Path) -> Path:
    """A memory with a snapshot and changes since."""
    kind, options = way
    with memory.open(kind, tmp_path / "m", DIM, **options) as store:
        changes(store, seed=1)
        store.save()
        changes(store, seed=2)
    return tmp_path / "m"


def test_comes_back_as_it_was(way, tmp_path: Path):
    kind, options = way
    path = tmp_path / "m"
    for seed in range(3):
        with memory.open(kind, path, DIM if seed == 0 else None, **options) as store:
            changes(store, seed=seed)
            if seed != 1:
                store.save()
                changes(store, seed=seed + 10)
            before, following = contents(store), store.manifest().next_id
        with memory.open(kind, path, **options) as store:
            assert contents(store) == before
            assert store.add(normal(1, DIM), 0, 0).tolist() == [following]


def test_a_save_leaves_nothing_old_behind(saved: Path, way):
    kind, options = way
    with memory.open(kind, saved, **options) as store:
        store.save()
        store.save()
        manifest = store.manifest()
    names = {p.name for p in saved.iterdir()} - {"milvus.db"}
    assert names == {MANIFEST_FILE, "lock", manifest.snapshot, manifest.journal}


def test_use_is_remembered(tmp_path: Path):
    vectors = 10 * np.eye(DIM, dtype=np.float32)
    with memory.open("exact", tmp_path, DIM) as store:
        store.add(vectors, 0, np.arange(DIM))
        store.search(vectors[:2], 1)
        store.save()
    with memory.open("exact", tmp_path) as store:
        assert store.evict(keep=2, by="use").tolist() == [2, 3, 4, 5]


def test_readers_see_the_memory_beside_its_writer(saved: Path, way):
    kind, options = way
    with memory.open(kind, saved, **options) as writer:
        with memory.open(kind, saved, read_only=True, **options) as reader:
            assert contents(reader) == contents(writer) or kind == "milvus"
            assert reader.search(normal(3, DIM), 5).ids.tolist() == (
                writer.search(normal(3, DIM), 5).ids.tolist()
            )
            for change in (reader.save, reader.compact, lambda: changes(reader, seed=3)):
                with pytest.raises(StoreError, match="read_only"):
                    change()
        with pytest.raises(StoreError, match="open for writing elsewhere"):
            memory.open(kind, saved, **options)
        changes(writer, seed=4)  # the reader and the refused writer let go of nothing of ours
    memory.open(kind, saved, **options).close()


def test_readers_come_through_while_saves_go_on(tmp_path: Path):
    done = threading.Event()
    with memory.open("hnsw", tmp_path, DIM) as writer:
        changes(writer, seed=1)

        def save():
            while not done.is_set():
                writer.add(normal(2, DIM), 0, 0)
                writer.save()

        saving = threading.Thread(target=save)
        saving.start()
        try:
            seen = []
            for _ in range(15):
                with memory.open("hnsw", tmp_path, read_only=True) as reader:
                    seen.append((reader.generation, len(reader)))
        finally:
            done.set()
            saving.join()
    assert seen == sorted(seen)
    assert all(live - seen[0][1] == 2 * (g - seen[0][0]) for g, live in seen)


def test_a_second_writing_process_is_refused(tmp_path: Path):
    code = f"from state_core import memory; memory.open('exact', {str(tmp_path)!r})"
    with memory.open("exact", tmp_path, DIM):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "open for writing elsewhere" in done.stderr


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kind": "exact"}, "kind is 'hnsw', not 'exact'"),
        ({"dim": DIM + 1}, f"dim is {DIM}, not {DIM + 1}"),
        ({"space": "cosine"}, "space is 'ip', not 'cosine'"),
        ({"m": 8}, "m is 16, not 8"),
    ],
)
def test_another_memory_than_asked_for_is_refused(tmp_path: Path, asked: dict, says: str):
    memory.open("hnsw", tmp_path, DIM).close()
    with pytest.raises(StoreError, match=says):
        memory.open(**{"kind": "hnsw", "path": tmp_path, **asked})
    with memory.open("hnsw", tmp_path, DIM, space="ip", m=16, ef=9) as store:
        assert store.stats().ef == 64  # where tuning would start from


def test_what_cannot_be_opened_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'exact'"):
        memory.open("exakt", dim=3)
    with pytest.raises(ConfigError, match="did you mean 'ef_construction'"):
        memory.open("hnsw", dim=3, ef_constructoin=3)
    with pytest.raises(ConfigError, match="has no option 'm'"):
        memory.open("exact", dim=3, m=3)
    with pytest.raises(ConfigError, match="cosine"):
        memory.open("exact", dim=3, space="cosin")
    with pytest.raises(InputError, match="needs dim"):
        memory.open("exact")
    with pytest.raises(InputError, match="dim must be"):
        memory.open("exact", dim=0)
    with pytest.raises(InputError, match="m of at least 2"):
        memory.open("hnsw", dim=3, m=1)
    with pytest.raises(StoreError, match="no memory"):
        memory.open("exact", tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture(scope="module")
def hnsw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory with a snapshot, an index and changes since."""
    path = tmp_path_factory.mktemp("hnsw") / "m"
    with memory.open("hnsw", path, DIM) as store:
        changes(store, seed=1)
        store.save()
        changes(store, seed=2)
    return path


def touch(hnsw: Path, pattern: str, change) -> None:
    """Every open must fail while the one file that matches is changed."""
    (path,) = hnsw.glob(pattern)
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    try:
        for read_only in (False, True):
            with pytest.raises(StoreError):
                memory.open("hnsw", hnsw, read_only=read_only)
    finally:
        path.write_bytes(whole)


FILES = ["manifest.json", "*/items.safetensors", "*/index.hnsw"]


@pytest.mark.parametrize("pattern", FILES)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(hnsw: Path, pattern: str, share: float):
    touch(hnsw, pattern, lambda whole: whole[: int(share * (len(whole) - 2))])


@pytest.mark.parametrize("pattern", [*FILES, "*.wal"])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused(hnsw: Path, pattern: str, where: float, flip: int):
    def change(whole: bytes) -> bytes:
        changed = bytearray(whole)
        changed[int(where * (len(whole) - 1))] ^= flip
        return bytes(changed)

    (path,) = hnsw.glob(pattern)
    if path.suffix == ".json":  # a space more between two tokens is the same manifest
        same = json.loads(path.read_bytes()).items()
        try:
            if json.loads(change(path.read_bytes())).items() == same:
                return
        except ValueError:
            pass
    touch(hnsw, pattern, change)


@pytest.mark.parametrize("pattern", [*FILES[1:], "*.wal"])
def test_a_missing_file_is_refused(hnsw: Path, pattern: str, tmp_path: Path):
    copy = shutil.copytree(hnsw, tmp_path / "m")
    next(copy.glob(pattern)).unlink()
    with pytest.raises(StoreError):
        memory.open("hnsw", copy)


def test_another_schema_is_refused(hnsw: Path):
    touch(hnsw, "manifest.json", lambda whole: whole.replace(b'"schema": 1', b'"schema": 2'))


def test_files_of_another_snapshot_are_refused(hnsw: Path, tmp_path: Path):
    copy = shutil.copytree(hnsw, tmp_path / "m")
    old = next(copy.glob("*.wal")).read_bytes()
    with memory.open("hnsw", copy) as store:
        store.save()
    next(copy.glob("*.wal")).write_bytes(old)
    with pytest.raises(StoreError, match="another memory or snapshot"):
        memory.open("hnsw", copy)


def test_a_memory_without_its_manifest_is_not_overwritten(tmp_path: Path):
    with memory.open("exact", tmp_path, DIM) as store:
        changes(store, seed=1)
    (tmp_path / MANIFEST_FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="without its manifest"):
        memory.open("exact", tmp_path, DIM)
    (tmp_path / "elsewhere").rename(tmp_path / MANIFEST_FILE)
    with memory.open("exact", tmp_path) as store:
        store.save()
    (tmp_path / MANIFEST_FILE).unlink()
    with pytest.raises(StoreError, match="without its manifest"):
        memory.open("exact", tmp_path, DIM)


@pytest.mark.parametrize("moment", ["while writing", "once written"])
def test_an_interrupted_change_is_there_or_not(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    store = memory.open("exact", tmp_path, DIM)
    changes(store, seed=1)
    before = store.generation
    with monkeypatch.context() as patch:
        if moment == "while writing":
            patch.setattr(os, "fsync", interrupt)
        else:
            patch.setattr(store._lock, "exclusive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.add(normal(2, DIM), 0, 0)
    with pytest.raises(StoreError, match="failed half way"):
        store.add(normal(2, DIM), 0, 0)
    store.close()
    with memory.open("exact", tmp_path) as store:
        assert store.generation == before + (moment == "once written")
        changes(store, seed=2)
    memory.open("exact", tmp_path).close()


@pytest.mark.parametrize("step", ["atomic_save_tensors", "write_manifest"])
def test_a_save_that_fails_loses_nothing(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise StorageError("No space left on device")

    store = memory.open("exact", tmp_path, DIM)
    changes(store, seed=1)
    before = contents(store)
    with monkeypatch.context() as patch:
        patch.setattr(home, step, full)
        with pytest.raises(StorageError):
            store.save()
    if step == "write_manifest":
        with pytest.raises(StoreError, match="Open it again"):
            changes(store, seed=2)
    store.close()
    with memory.open("exact", tmp_path) as store:
        assert contents(store)[:3] == before[:3]
        changes(store, seed=3)
        store.save()
    assert read_manifest(tmp_path).serial == 2
