"""Refuses a held-out document that the training text holds already.

Two documents are near-duplicates if the smaller shares at least half of its shingles (runs of
eight words) with the other: Broder's containment (SEQUENCES 1997). Large corpora keep only the
shingles whose hash falls under a bound, which leaves the estimate unbiased.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from state_core.errors import DataError

SHINGLE = 8
THRESHOLD = 0.5
MAX_SHINGLES = 4_000_000
COMMON = 64  # a shingle in more documents than this is boilerplate, and tells nothing

Hashes = NDArray[np.uint64]


def refuse_near_duplicates(splits: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """DataError if two (name, text) documents of different splits are near-duplicates."""
    documents = [(part, *document) for part, items in splits.items() for document in items]
    hashes = shingle_hashes([text for _, _, text in documents])
    sizes = [len(h) for h in hashes]
    worst: tuple[float, int, int] | None = None
    for (a, b), shared in _shared_counts(hashes).items():
        if documents[a][0] == documents[b][0]:
            continue
        containment = shared / min(sizes[a], sizes[b])
        if containment >= THRESHOLD and (worst is None or containment > worst[0]):
            worst = (containment, a, b)
    if worst is None:
        return
    share, *pair = worst
    first, second = (f"{documents[k][1]!r} ({documents[k][0]})" for k in pair)
    raise DataError(
        f"{first} and {second} share {share:.0%} of the runs of {SHINGLE} words: a "
        "held-out text that was trained on measures nothing. Remove one of them, or join them into "
        "one document"
    )


def shingle_hashes(texts: Sequence[str]) -> list[Hashes]:
    """The distinct hashes of each text's shingles; a text of fewer words is one shingle."""
    vocabulary: dict[str, int] = {}
    hashes = [_hashes(_word_ids(text, vocabulary)) for text in texts]
    total = sum(len(h) for h in hashes)
    if total <= MAX_SHINGLES:
        return hashes
    bound = np.uint64(2**64 * (MAX_SHINGLES / total))
    return [h[h < bound] for h in hashes]


def _word_ids(text: str, vocabulary: dict[str, int]) -> NDArray[np.uint64]:
    words = re.findall(r"\w+", text.lower())
    ids = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
    return np.array(ids, dtype=np.uint64)


def _hashes(ids: NDArray[np.uint64]) -> Hashes:
    if not len(ids):
        return ids
    width = min(SHINGLE, len(ids))
    multipliers = np.random.default_rng(0).integers(1, 2**64, SHINGLE, np.uint64) | np.uint64(1)
    runs = len(ids) - width + 1
    total = np.zeros(runs, dtype=np.uint64)
    for k in range(width):
        total += ids[k : k + runs] * multipliers[k]
    total ^= total >> np.uint64(31)  # spreads the sum over all bits, for the bound above
    return np.unique(total * np.uint64(0x9E3779B97F4A7C15))


def _shared_counts(hashes: Sequence[Hashes]) -> dict[tuple[int, int], int]:
    """How many shingles each pair of documents shares, for pairs that share any."""
    values = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    owners = np.repeat(np.arange(len(hashes)), [len(h) for h in hashes])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    _, inverse, group = np.unique(values, return_inverse=True, return_counts=True)
    kept = (group[inverse] > 1) & (group[inverse] <= COMMON)
    values, owners = values[kept], owners[kept]
    pairs = []
    for step in range(1, int(group[(group > 1) & (group <= COMMON)].max(initial=1))):
        same = values[step:] == values[:-step]
        pairs.append(owners[:-step][same] * len(hashes) + owners[step:][same])
    codes, counts = np.unique(np.concatenate([*pairs, np.zeros(0, np.int64)]), return_counts=True)
    return {divmod(int(code), len(hashes)): int(n) for code, n in zip(codes, counts, strict=True)}
