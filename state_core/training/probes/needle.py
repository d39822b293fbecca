"""A needle in a haystack: one fact, much other text, then the question.

    … filler … k1 k2 v … filler … k1 k2 [v]

The key's last token occurs in the fact and in the question only, so that the answer is exact
however long the text is. The filler is real text if a corpus is given.

N texts, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from state_core.training.probes.batch import ProbeBatch, asked, draw_distinct, generator, require
from state_core.training.probes.filler import Corpus, check_corpus, filler


@dataclass(frozen=True)
class Needle:
    """The value of a key of `key_tokens` tokens, stated `distance` tokens before it is asked for.

    corpus: a row of token ids that texts are cut from, random ids if None. ConfigError if fact and
    question do not fit or overlap.
    """

    length: int = 1024
    distance: int = 512
    vocab_size: int = 256
    key_tokens: int = 2
    corpus: Corpus | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require(self.key_tokens >= 1, "needle", f"key_tokens must be ≥ 1, got {self.key_tokens}")
        require(self.vocab_size >= 3, "needle", f"vocab_size must be ≥ 3, got {self.vocab_size}")
        shortest, longest = self.key_tokens + 1, self.length - self.key_tokens - 1
        require(
            shortest <= self.distance <= longest,
            "needle",
            f"in {self.length} tokens, a fact of {shortest} can stand {shortest} to {longest} "
            f"tokens back, got distance = {self.distance}",
        )
        check_corpus(self.corpus, "needle", self.length, self.vocab_size)

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts of `length`, of each of which the last token is asked for."""
        rng = generator("needle", n, seed)
        ids = filler(rng, n, self.length, self.vocab_size, self.corpus)
        last, other, value = draw_distinct(rng, n, self.vocab_size, 3).T[..., None]
        key = rng.integers(0, self.vocab_size, (n, self.key_tokens - 1))
        key = np.where(key == last, other, key)
        fact = np.concatenate([key, last, value], axis=1)

        ids = np.where(ids == last, other, ids)
        asked_at = self.length - 1
        for end in (asked_at - self.distance, asked_at):
            ids[:, end - self.key_tokens : end + 1] = fact
        distance = np.zeros_like(ids)
        distance[:, asked_at] = self.distance
        return asked(ids, distance)
