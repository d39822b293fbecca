"""The write-ahead journal: every change since the snapshot, on the disk before it is acknowledged.

A file is a header, which names the memory and the generation that the changes start from, and
records. Each record carries its length, its generation, and checksums of both its head and its
body. A process that dies while it appends leaves a record that ends too early: that change was
never acknowledged, and is dropped. Anything else that does not add up is damage, and is refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack

from state_core.atomic import atomic_write_bytes
from state_core.errors import StorageError, StoreError

MAGIC = b"SOSMWAL1"
OPERATIONS = ("add", "delete", "compact", "tune")
_FILE = struct.Struct("<8s32sQ")  # magic, memory, generation
_HEAD = struct.Struct("<BQQI")  # operation, generation, length and checksum of the body
_SUM = struct.Struct("<I")
EMPTY_JOURNAL = _FILE.size + _SUM.size  # bytes


@dataclass(frozen=True)
class Record:
    """One change: what is done, which generation it leads to, and the arrays that it needs."""

    operation: str
    generation: int
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Journal:
    """A journal that is being written. `close` it to release the file."""

    def __init__(self, path: Path, length: int) -> None:
        """Append after `length` bytes; what follows them, an unfinished record, is cut off."""
        self.path, self._length = path, length
        self._file = os.open(path, os.O_WRONLY)
        os.ftruncate(self._file, length)

    @classmethod
    def create(cls, path: Path, store: str, generation: int) -> Journal:
        """An empty journal of a memory that stands at a generation."""
        head = _sealed(_FILE.pack(MAGIC, store.encode(), generation))
        atomic_write_bytes(path, head)
        return cls(path, len(head))

    def append(self, record: Record) -> None:
        """Write a record to the disk. StorageError if it cannot; the journal is then as before."""
        data = _encode(record)
        try:
            _write_all(self._file, data, self._length)
            os.fsync(self._file)
        except BaseException as error:
            os.ftruncate(self._file, self._length)
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"cannot write {self.path}: {error}. The change was not made; nothing else is lost"
            ) from error
        self._length += len(data)

    def close(self) -> None:
        os.close(self._file)


def read_journal(path: Path, store: str, generation: int) -> tuple[list[Record], int]:
    """The records of a memory's journal, and how many bytes are whole.

    generation: what the snapshot stands at, and so what the journal must start from. StoreError if
    the file is missing, damaged, or of another memory or snapshot.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if data[:EMPTY_JOURNAL] != _sealed(_FILE.pack(MAGIC, store.encode(), generation)):
        raise StoreError(f"{path} is damaged, or belongs to another memory or snapshot")
    records, end = [], EMPTY_JOURNAL
    for record, stop in _records(path, data, end):
        if record.generation != generation + 1:
            raise StoreError(f"{path} goes from generation {generation} to {record.generation}")
        records.append(record)
        generation, end = record.generation, stop
    return records, end


def _records(path: Path, data: bytes, start: int) -> Iterator[tuple[Record, int]]:
    """Whole records and where each ends. Stops at one that ends too early."""
    while start < len(data):
        head = data[start : start + _HEAD.size + _SUM.size]
        if len(head) < _HEAD.size + _SUM.size:
            return
        operation, generation, length, checksum = _HEAD.unpack_from(head)
        if head != _sealed(head[: _HEAD.size]) or operation >= len(OPERATIONS):
            if not any(data[start:]):  # what some file systems leave where power was lost
                return
            raise StoreError(f"{path} is damaged at byte {start}: the changes after it are lost")
        start += len(head)
        body = data[start : start + length]
        if len(body) < length:
            return
        if zlib.crc32(body) != checksum:
            raise StoreError(f"{path} is damaged after byte {start}: a checksum differs")
        start += length
        yield Record(OPERATIONS[operation], generation, unpack(body)), start


def _encode(record: Record) -> bytes:
    body = pack({name: np.ascontiguousarray(array) for name, array in record.arrays.items()})
    operation = OPERATIONS.index(record.operation)
    head = _HEAD.pack(operation, record.generation, len(body), zlib.crc32(body))
    return _sealed(head) + body


def _sealed(head: bytes) -> bytes:
    return head + _SUM.pack(zlib.crc32(head))


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
