"""Long-range memory: vectors that are found again by similarity, and survive a crash.

    from state_core import memory
    with memory.open("hnsw", "runs/memory", dim=64) as store:
        ids = store.add(vectors, documents=0, positions=positions)
        hits = store.search(queries, k=16, documents=[0], positions=(0, 512))

Which kind when, what is promised, and the files: README.md beside this file.
"""

from __future__ import annotations

from state_core.memory.kinds import KINDS, info, open
from state_core.memory.protocol import Hits, MemoryStore, Stats
from state_core.memory.store import Store

__all__ = ["KINDS", "Hits", "MemoryStore", "Stats", "Store", "info", "open"]
