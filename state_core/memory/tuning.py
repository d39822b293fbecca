"""How broad an approximate search must be for a given recall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from state_core.errors import StoreError
from state_core.memory.protocol import Floats, Index, Ints

NARROWEST = 8


def narrowest(index: Index, queries: Floats, exact: Ints, recall: float) -> int:
    """The first ef of 8, 12, 16, 24, 32, … at which `index` finds this share of `exact` [Q,k].

    The index keeps the ef that it had. StoreError if it does not find them at any breadth.
    """
    before, k = index.ef, exact.shape[1]
    most, reached = max(k, int((exact >= 0).sum(1).max())), 0.0
    try:
        for ef in _breadths(k):
            index.ef = ef
            reached = max(reached, recall_of(index.search(queries, most), exact))
            if reached >= recall:
                return ef
    finally:
        index.ef = before
    raise StoreError(
        f"no search of this index finds {recall:.3f} of the {k} nearest, at most {reached:.3f}. "
        "Build it with a larger m and ef_construction, or use an exact memory"
    )


def recall_of(found: Ints, exact: Ints) -> float:
    """The share of the ids in `exact` [Q,k], -1 aside, that are in `found` [Q,K]."""
    hit = (exact[:, :, None] == found[:, None, :]).any(2) & (exact >= 0)
    return float(hit.sum() / max(1, (exact >= 0).sum()))


def _breadths(k: int) -> Iterator[int]:
    """Powers of two and what lies half way between them, from k on, up to 65536."""
    for exponent in range(int(np.log2(NARROWEST)), 16):
        for ef in (2**exponent, 3 * 2 ** (exponent - 1)):
            if ef >= k:
                yield ef
