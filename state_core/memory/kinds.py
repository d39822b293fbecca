"""The kinds of memory, and how one is opened."""

from __future__ import annotations

import inspect
import uuid
from pathlib import Path
from typing import Any, get_args

from state_core.errors import ConfigError, InputError, StoreError, nearest
from state_core.machine import installed_version
from state_core.memory import checks
from state_core.memory.hnsw_memory import HNSWIndex
from state_core.memory.home import Home
from state_core.memory.manifest import MANIFEST_FILE, Manifest, read_manifest
from state_core.memory.milvus_memory import MilvusIndex
from state_core.memory.protocol import Index, Place, Space, Stats
from state_core.memory.store import Store

KINDS: dict[str, Any] = {"exact": None, "hnsw": HNSWIndex, "milvus": MilvusIndex}
"""Kind → its index, which takes a `Place` and the kind's options; None for none."""
LIBRARIES = {"exact": (), "hnsw": ("hnswlib",), "milvus": ("pymilvus", "milvus-lite")}
READS = 10  # attempts of a reader whom saves overtake
EXACT_BELOW = 4096  # items; a batch of queries is answered faster by looking at all of them


def open(
    kind: str,
    path: str | Path | None = None,
    dim: int | None = None,
    *,
    space: Space | None = None,
    read_only: bool = False,
    exact_below: int = EXACT_BELOW,
    **options: Any,
) -> Store:
    """Open the memory at `path`, or make one; without a path it lives in main memory.

    kind:        "exact", "hnsw" (extra `memory`) or "milvus" (extra `milvus`).
    dim:         width of the vectors; may be left out where the memory exists.
    space:       "ip" (inner product) or "cosine"; that of the memory, or "ip" for a new one.
    read_only:   the memory as it is now, while another process may go on writing it.
    exact_below: with at most so many items to choose from, a search looks at all of them.
    options:     hnsw: m, ef_construction, threads, and ef, until it is tuned. milvus: uri, token.

    Raises StoreError if what is at the path is damaged, being written elsewhere, or of another
    kind, width, space or parameters; ConfigError for an unknown kind or option; InputError for a
    wrong value; MissingExtraError if the kind's library is not installed.
    """
    _check(kind, dim, space, options)
    exact_below = checks.count(exact_below, "exact_below", 0)
    folder = None if path is None else Path(path)
    if folder is None or not (folder / MANIFEST_FILE).exists():
        if read_only:
            raise StoreError(f"there is no memory at {path} to be read")
        return _make(kind, folder, dim, space or "ip", exact_below, options)
    _match(folder, read_manifest(folder), kind, dim, space, options)
    if read_only:
        return _read(folder, exact_below, options)
    return _reopen(folder, exact_below, options)


def info(path: str | Path) -> tuple[Manifest, Stats]:
    """The memory at `path` as it was saved last, and its numbers as of now. It is only read."""
    manifest = read_manifest(Path(path))
    with open(manifest.kind, path, read_only=True) as store:
        return store.manifest(), store.stats()


def _make(
    kind: str, folder: Path | None, dim: int | None, space: Space, exact_below: int, options: Any
) -> Store:
    if dim is None:
        raise InputError("a new memory needs dim, the width of its vectors")
    name = uuid.uuid4().hex
    index = _index(kind, Place(checks.count(dim, "dim", 1), name, folder), options)
    manifest = Manifest(
        kind=kind, dim=dim, space=space, store=name, serial=0, generation=0, clock=0, next_id=0,
        live=0, tombstones=0, parameters=index.parameters if index else {}, files={},
        libraries={name: installed_version(name) or "unknown" for name in LIBRARIES[kind]},
    )  # fmt: skip
    try:
        home = Home.create(folder, manifest) if folder else None
    except BaseException:
        if index:
            index.close()
        raise
    return Store(manifest, index, home, exact_below=exact_below)


def _reopen(folder: Path, exact_below: int, options: dict[str, Any]) -> Store:
    home, records = Home.open(folder)
    try:
        manifest = home.manifest
        place = Place(manifest.dim, manifest.store, folder)
        index = _index(manifest.kind, place, {**options, **manifest.parameters})
        store = Store(manifest, index, home, exact_below=exact_below)
        store.restore(home.items(), records)
    except BaseException:
        home.close()
        raise
    return store


def _read(folder: Path, exact_below: int, options: dict[str, Any]) -> Store:
    """Read again what a writer's save took away meanwhile; what stands still is damaged."""
    for _ in range(READS):
        manifest = read_manifest(folder)
        try:
            return _read_once(folder, exact_below, options)
        except StoreError:
            if read_manifest(folder) == manifest:
                raise
    raise StoreError(f"{folder} is saved faster than it can be read: try again")


def _read_once(folder: Path, exact_below: int, options: dict[str, Any]) -> Store:
    """A reader searches exactly where the index cannot be opened beside its writer."""
    home, records, items = Home.read(folder)
    manifest = home.manifest
    place = Place(manifest.dim, manifest.store, folder)
    shared = manifest.kind != "milvus"
    index = _index(manifest.kind, place, {**options, **manifest.parameters}) if shared else None
    store = Store(manifest, index, home, exact_below=exact_below, read_only=True)
    store.restore(items, records)
    return store


def _index(kind: str, place: Place, options: dict[str, Any]) -> Index | None:
    index: Index | None = KINDS[kind] and KINDS[kind](place, **options)
    return index


def _check(kind: str, dim: int | None, space: str | None, options: dict[str, Any]) -> None:
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of memory {kind!r}: {nearest(kind, KINDS)}")
    if dim is not None:
        checks.count(dim, "dim", 1)
    if space not in (None, *get_args(Space)):
        raise ConfigError(f"unknown space {space!r}: {nearest(str(space), get_args(Space))}")
    known = set(inspect.signature(KINDS[kind]).parameters) - {"place"} if KINDS[kind] else set()
    for option in options.keys() - known:
        hint = nearest(option, known) if known else "it has none"
        raise ConfigError(f"a memory of kind {kind!r} has no option {option!r}: {hint}")


def _match(
    folder: Path, found: Manifest, kind: str, dim: int | None, space: str | None, options: Any
) -> None:
    """StoreError unless the memory is of what was asked for."""
    asked = {"kind": kind, "dim": dim, "space": space}
    # `ef` is but where tuning starts from.
    fixed = found.parameters.keys() - {"ef"}
    asked |= {name: options[name] for name in options.keys() & fixed}
    has = {**vars(found), **found.parameters}
    for name, value in asked.items():
        if value is not None and value != has[name]:
            raise StoreError(
                f"{folder} holds a memory whose {name} is {has[name]!r}, not {value!r}: ask for "
                f"{has[name]!r}, or use another path"
            )
