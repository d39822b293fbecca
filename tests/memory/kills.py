"""A memory whose writer is killed again and again, at random moments.

python -m tests.memory.kills FOLDER KIND POINTS [KIND POINTS] …

Each point forks a writer, which opens the memory, changes and saves it without end and tells each
change once it is acknowledged, until it is killed. What is on the disk must then be the memory
after all changes that were acknowledged, or after one more. Changes follow from the generation
alone, so the parent knows what each of them leads to.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import numpy as np

from state_core import memory
from state_core.memory import Store

DIM, MOST = 4, 60
WORD = struct.Struct("<q")
DISAGREES = -1
LONGEST = {"milvus": 0.4}  # seconds that a writer lives; others 0.03
Item = tuple[int, int, bytes]


def change(generation: int, live: list[int]) -> tuple[str, int | list[int]]:
    """What is done at a generation: items to add, ids to delete, or how many to keep."""
    random = np.random.default_rng(generation)
    if len(live) > MOST:
        return "evict", MOST // 2
    if generation % 5 == 3 and len(live) > 4:
        return "delete", sorted(random.choice(live, 3, replace=False).tolist())
    return "add", int(random.integers(1, 5))


def items(generation: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, documents and positions that are added at a generation."""
    random = np.random.default_rng(generation + 10**9)
    return (
        random.standard_normal((count, DIM), np.float32),
        random.integers(0, 9, count),
        random.integers(0, 99, count),
    )


def write(kind: str, folder: Path, pipe: int, seed: int) -> NoReturn:
    """Change the memory until killed."""
    store = memory.open(kind, folder, DIM, exact_below=0)
    if not index_agrees(store):
        os.write(pipe, WORD.pack(DISAGREES))
    random = np.random.default_rng(seed)
    while True:
        operation, argument = change(store.generation, live_ids(store))
        if operation == "add":
            store.add(*items(store.generation, argument))
        elif operation == "delete":
            store.delete(argument)
        else:
            store.evict(argument, "age")
        os.write(pipe, WORD.pack(store.generation))
        if random.random() < 0.15:
            store.save()


def live_ids(store: Store) -> list[int]:
    return store._table.ids[store._table.alive].tolist()


def index_agrees(store: Store) -> bool:
    """Whether the index holds just the live items."""
    table = store._table
    if store._index is None or not table.live:
        return True
    found = store._index.search(table.vectors[table.alive], table.live)
    return bool((np.sort(found, axis=1) == table.ids[table.alive]).all())


class Model:
    """What the memory should hold: id → document, position and bytes of the vector."""

    def __init__(self) -> None:
        self.generation, self.next_id = 0, 0
        self.items: dict[int, Item] = {}

    def advance(self, generation: int) -> None:
        while self.generation < generation:
            operation, argument = change(self.generation, list(self.items))
            if operation == "add":
                for v, d, p in zip(*items(self.generation, argument), strict=True):
                    self.items[self.next_id] = (int(d), int(p), v.tobytes())
                    self.next_id += 1
            else:
                gone = argument if operation == "delete" else list(self.items)[:-argument]
                for i in gone:
                    del self.items[i]
            self.generation += 1


def check(kind: str, folder: Path, model: Model, told: list[int]) -> None:
    """Compare the folder with the model, which advances to where the folder stands."""
    assert DISAGREES not in told, "the index and the items disagree"
    if not (folder / "manifest.json").exists():
        assert not told
        return
    with memory.open(kind, folder, read_only=True) as store:
        acknowledged = max(told, default=model.generation)
        assert acknowledged <= store.generation <= acknowledged + 1, (told, store.generation)
        model.advance(store.generation)
        ids = live_ids(store)
        assert ids == list(model.items)
        assert store.manifest().next_id == model.next_id
        where = zip(*store.locate(ids), store._table.vectors[store._table.alive], strict=True)
        held = [(int(d), int(p), v.tobytes()) for d, p, v in where]
        assert held == list(model.items.values())


def warm_up(kind: str) -> None:
    """Import what writers need once, and not in each of them."""
    if kind == "milvus":  # its threads would not survive a fork
        from milvus_lite.adapter.grpc import server  # noqa: F401
        from pymilvus import MilvusClient  # noqa: F401

        kind = "exact"
    with tempfile.TemporaryDirectory() as folder, memory.open(kind, folder, DIM) as store:
        store.delete(store.add(*items(0, 3)))
        store.save()


def kill(kind: str, points: int, folder: Path) -> None:
    """Kill a writer at so many points; AssertionError for anything that is lost."""
    model, random = Model(), np.random.default_rng(0)
    warm_up(kind)
    for point in range(points):
        read, written = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            write(kind, folder, written, point)
        os.close(written)
        if point % 2:  # half of them while it opens, half at work
            select.select([read], [], [], 10)
        time.sleep(random.uniform(0, LONGEST.get(kind, 0.03)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the writer failed by itself"
        with os.fdopen(read, "rb") as pipe:
            told = [word for (word,) in WORD.iter_unpack(pipe.read())]
        check(kind, folder, model, told)
    assert model.generation, "no writer came to change anything"
    print(f"{kind}: {model.generation} changes survived {points} kills")


if __name__ == "__main__":
    for kind, points in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        kill(kind, int(points), Path(sys.argv[1]) / kind)
