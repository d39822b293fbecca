"""Writes that a kill cannot spoil.

Everything goes to a temporary name in the same folder, is flushed to the disk, and is renamed. A
process that dies at any moment leaves the old version or the new one, never half of either, and
leftovers of a dead process are names that start with `.tmp-`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from state_core.errors import StorageError

TEMPORARY = ".tmp-"


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Replace the file at `path` by `data`. StorageError if it cannot; the old file then stays."""
    with _temporary_file(Path(path)) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Replace the file at `path` by `text`, in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON; NaN and infinity are refused."""
    atomic_write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def atomic_save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace the file at `path` by a safetensors file.

    Tensors of any device and layout are taken; two names may not share memory.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with _temporary_file(Path(path)) as temporary:
        save_file(plain, temporary, dict(metadata or {}))


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without an error.

    A folder already at `path` is replaced. Where both must survive a kill between the two renames,
    give every version its own name and point to the newest (see `training.checkpoint`).
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with _storage_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            remove_directory(path)
            temporary.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what writers that died left in `folder`. Call it only where no writer is at work."""
    for leftover in Path(folder).glob(TEMPORARY + "*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    temporary = _temporary_name(path)
    try:
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot write {path}: {error}. Nothing was lost: what was there before is unchanged"
        ) from error


def remove_directory(path: Path) -> None:
    """Delete a folder, if it is there. A kill on the way leaves no half folder at `path`."""
    if not path.exists():
        return
    doomed = _temporary_name(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _temporary_name(path: Path) -> Path:
    return path.with_name(TEMPORARY + uuid.uuid4().hex)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
