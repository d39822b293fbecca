"""The text around a question: windows of a real corpus, or random tokens.

N texts, T tokens.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from state_core.training.probes.batch import Ids, require

Corpus: TypeAlias = NDArray[np.int64]
"""A row of token ids, as `tokenizer.encode` or `load_text` give."""


def filler(
    rng: np.random.Generator, n: int, length: int, vocab_size: int, corpus: Corpus | None
) -> Ids:
    """[N,T]: windows of the corpus at random places, or ids below `vocab_size` drawn evenly."""
    if corpus is None:
        return rng.integers(0, vocab_size, (n, length))
    starts = rng.integers(0, len(corpus) - length + 1, n)
    return np.asarray(corpus[starts[:, None] + np.arange(length)], dtype=np.int64)


def check_corpus(corpus: Corpus | None, task: str, length: int, vocab_size: int) -> None:
    """ConfigError unless the corpus is a row of ids below `vocab_size` that fills a text."""
    if corpus is None:
        return
    require(
        corpus.ndim == 1 and np.issubdtype(corpus.dtype, np.integer),
        task,
        f"corpus must be one row of integer ids, got {corpus.dtype} {list(corpus.shape)}",
    )
    require(
        len(corpus) >= length,
        task,
        f"the corpus has {len(corpus)} tokens, a text needs {length}: give a longer one",
    )
    low, high = int(corpus.min()), int(corpus.max())
    require(
        0 <= low <= high < vocab_size,
        task,
        f"the corpus has ids from {low} to {high}, outside 0 … {vocab_size - 1}",
    )
