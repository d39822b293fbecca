"""The manifest: what a memory's folder holds, and the one file whose replacement commits a save."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from state_core.atomic import atomic_write_json, sha256_file
from state_core.errors import StoreError
from state_core.memory.protocol import Space

MANIFEST_FILE = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """A snapshot, and all that it takes to open it. Written as JSON with a sha256 of itself."""

    kind: str
    dim: int
    space: Space
    store: str
    """A random name, by which files of different memories are told apart."""
    serial: int
    """Counts the saves, and names the snapshot and its journal."""
    generation: int
    clock: int
    """Searches and additions so far, against which `use` is measured."""
    next_id: int
    live: int
    tombstones: int
    parameters: dict[str, int]
    """Of the index, its tuned `ef` among them."""
    libraries: dict[str, str]
    """Versions that wrote the index's files."""
    files: dict[str, str]
    """Of the snapshot: name → sha256."""

    @property
    def snapshot(self) -> str:
        """The folder of the items and the index."""
        return f"snapshot-{self.serial:08d}"

    @property
    def journal(self) -> str:
        """The file of the changes since."""
        return f"journal-{self.serial:08d}.wal"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the one of the folder, atomically."""
    content = {"schema": SCHEMA, **asdict(manifest)}
    atomic_write_json(folder / MANIFEST_FILE, {**content, "sha256": _digest(content)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a memory's folder; StoreError if there is none, or it was altered."""
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256", None)
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no memory: there is no {MANIFEST_FILE}") from None
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is truncated or damaged: {error}") from error
    if content.get("schema") != SCHEMA:
        raise StoreError(
            f"{path} has schema {content.get('schema')!r}, and this version reads {SCHEMA}: "
            "open it with the version of state-core that wrote it"
        )
    if digest != _digest(content):
        raise StoreError(f"{path} was altered after it was written: its sha256 differs")
    del content["schema"]
    return Manifest(**content)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """StoreError unless the snapshot's files are those that the manifest was written with."""
    for name, digest in manifest.files.items():
        path = folder / manifest.snapshot / name
        if not path.is_file():
            raise StoreError(f"{path} is missing")
        if sha256_file(path) != digest:
            raise StoreError(f"{path} is truncated or was altered: its sha256 differs")


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder."""
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
