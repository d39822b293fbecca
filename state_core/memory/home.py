"""A memory's folder: lock, manifest, snapshot and journal, in the order that loses nothing.

A save writes the next snapshot and its empty journal beside the old ones, and then replaces the
manifest, which names both: before that instant the folder is the old memory, after it the new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from state_core.atomic import (
    atomic_directory,
    atomic_save_tensors,
    remove_directory,
    remove_leftovers,
)
from state_core.errors import StoreError
from state_core.memory.journal import EMPTY_JOURNAL, Journal, Record, read_journal
from state_core.memory.locks import lock_folder, unlock_folder
from state_core.memory.manifest import (
    MANIFEST_FILE,
    Manifest,
    digests,
    read_manifest,
    verify_files,
    write_manifest,
)

ITEMS_FILE = "items.safetensors"
_OURS = re.compile(r"(snapshot-\d{8}|journal-\d{8}\.wal)$")


class Home:
    """The folder of a memory that is open for writing, or was read."""

    def __init__(self, folder: Path, manifest: Manifest, lock: int | None) -> None:
        self.folder, self.manifest = folder, manifest
        self._lock = lock
        self._journal: Journal | None = None

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Home:
        """A new, empty memory. StoreError where the folder may hold another."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            _refuse_remains(folder)
            home = cls(folder, manifest, lock)
            home.save(manifest, {}, lambda _: None)
        except BaseException:
            unlock_folder(lock)
            raise
        return home

    @classmethod
    def open(cls, folder: Path) -> tuple[Home, list[Record]]:
        """The memory in a folder, and its changes since the snapshot, to be written by us alone."""
        lock = lock_folder(folder)
        try:
            home = cls(folder, read_manifest(folder), lock)
            records, length = home._read()
            home._journal = Journal(folder / home.manifest.journal, length)
            home._sweep()
        except BaseException:
            unlock_folder(lock)
            raise
        return home, records

    @classmethod
    def read(cls, folder: Path) -> tuple[Home, list[Record], dict[str, Tensor]]:
        """As it is at this moment, whoever writes it: manifest, changes and items.

        StoreError as well where a save takes away what is being read.
        """
        home = cls(folder, read_manifest(folder), None)
        records, _ = home._read()
        return home, records, home.items()

    @property
    def snapshot(self) -> Path:
        return self.folder / self.manifest.snapshot

    def items(self) -> dict[str, Tensor]:
        """The columns of the snapshot's items."""
        try:
            return load_file(self.snapshot / ITEMS_FILE)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.snapshot / ITEMS_FILE} is damaged: {error}") from error

    def append(self, record: Record) -> None:
        """Put a change on the disk."""
        if self._journal is None:
            raise StoreError(f"{self.folder}: an earlier save failed half way. Open it again")
        self._journal.append(record)

    def save(
        self, manifest: Manifest, items: dict[str, Tensor], write_index: Callable[[Path], None]
    ) -> None:
        """Commit a snapshot of what `manifest` says, whose serial and files are filled in here."""
        manifest = replace(manifest, serial=self.manifest.serial + 1)
        with atomic_directory(self.folder / manifest.snapshot) as folder:
            about = {"store": manifest.store, "generation": str(manifest.generation)}
            atomic_save_tensors(folder / ITEMS_FILE, items, about)
            write_index(folder)
            manifest = replace(manifest, files=digests(folder))
        path = self.folder / manifest.journal
        journal = Journal.create(path, manifest.store, manifest.generation)
        if self._journal:
            self._journal.close()
        self._journal = None  # until it is certain which one the manifest names
        write_manifest(self.folder, manifest)
        self.manifest, self._journal = manifest, journal
        self._sweep()

    def close(self) -> None:
        """Let others write."""
        if self._journal:
            self._journal.close()
        if self._lock is not None:
            unlock_folder(self._lock)
        self._journal = self._lock = None

    def _read(self) -> tuple[list[Record], int]:
        verify_files(self.folder, self.manifest)
        path = self.folder / self.manifest.journal
        return read_journal(path, self.manifest.store, self.manifest.generation)

    def _sweep(self) -> None:
        """Remove what saves have replaced, and what dead ones left."""
        remove_leftovers(self.folder)
        for path in _snapshots_and_journals(self.folder):
            if path.name in (self.manifest.snapshot, self.manifest.journal):
                continue
            if path.is_dir():
                remove_directory(path)
            else:
                path.unlink()


def _snapshots_and_journals(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _OURS.match(path.name)]


def _refuse_remains(folder: Path) -> None:
    """A first save that was killed leaves a snapshot and a journal of the serial 1; more than that
    is a memory whose manifest was lost, and is not ours to overwrite."""
    for path in _snapshots_and_journals(folder):
        empty = path.is_dir() or path.stat().st_size <= EMPTY_JOURNAL
        if "00000001" not in path.name or not empty:
            raise StoreError(f"{folder} holds a memory without its {MANIFEST_FILE}: put it back")
