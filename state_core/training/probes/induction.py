"""Induction: a bigram is repeated; say what followed its first token before.

    … a b … c d … a [b] … a [b] … c [d] …

Some tokens are prefixes: each is always followed by the same token, wherever it occurs. From its
second occurrence on, that token is asked for. The text around them is random and has no prefix in
it. With `special`, the prefixes are the same ids in every text, as in the classic task with one
prefix (arXiv 2212.14052, 2209.11895); without, they are drawn anew for each text, so that any
repeated bigram counts.

N texts, P prefixes, M bigrams of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from state_core.training.probes.batch import (
    Ids,
    ProbeBatch,
    asked,
    draw_distinct,
    generator,
    require,
)


@dataclass(frozen=True)
class Induction:
    """`prefixes` tokens that occur 1 + `repeats` times each, at random places. ConfigError if they
    do not fit into the text or into the vocabulary."""

    length: int = 512
    vocab_size: int = 64
    prefixes: int = 16
    repeats: int = 4
    special: bool = False

    def __post_init__(self) -> None:
        require(self.prefixes >= 1, "induction", f"prefixes must be ≥ 1, got {self.prefixes}")
        require(self.repeats >= 1, "induction", f"repeats must be ≥ 1, got {self.repeats}")
        require(
            self.vocab_size >= self.prefixes + 2,
            "induction",
            f"two ids must remain beside {self.prefixes} prefixes, got vocab_size "
            f"{self.vocab_size}",
        )
        require(
            self.length >= 2 * self.bigrams,
            "induction",
            f"{self.bigrams} bigrams need a length of {2 * self.bigrams}, got {self.length}",
        )

    @property
    def bigrams(self) -> int:
        """How many bigrams M a text has."""
        return self.prefixes * (1 + self.repeats)

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts of `length`; distance is from a token to the last time it followed the same
        prefix."""
        rng = generator("induction", n, seed)
        rows = np.arange(n)[:, None]
        order = draw_distinct(rng, n, self.vocab_size, self.vocab_size)
        if self.special:
            order = np.tile(np.arange(self.vocab_size), (n, 1))
        rest = rng.integers(self.prefixes, self.vocab_size, (n, self.length))
        ids = order[rows, rest]
        followers = order[rows, rng.integers(self.prefixes, self.vocab_size, (n, self.prefixes))]

        starts = self._starts(rng, n)
        which = rng.permuted(np.tile(np.arange(self.bigrams) % self.prefixes, (n, 1)), axis=1)
        ids[rows, starts] = order[rows, which]
        ids[rows, starts + 1] = followers[rows, which]
        distance = np.zeros_like(ids)
        distance[rows, starts + 1] = _since_last(which, starts)
        return asked(ids, distance)

    def _starts(self, rng: np.random.Generator, n: int) -> Ids:
        """Where bigrams begin, [N,M], ascending and without overlap: drawn in a text where each
        takes one place, then moved by those before it."""
        places = draw_distinct(rng, n, self.length - self.bigrams, self.bigrams)
        return np.sort(places, axis=1) + np.arange(self.bigrams)


def _since_last(which: Ids, starts: Ids) -> Ids:
    """How far before each bigram [N,M] the last one of the same prefix began; 0 if none did."""
    order = which.argsort(axis=1, kind="stable")
    prefix, begin = (np.take_along_axis(a, order, axis=1) for a in (which, starts))
    gaps = np.zeros_like(begin)
    same = prefix[:, 1:] == prefix[:, :-1]
    gaps[:, 1:] = np.where(same, begin[:, 1:] - begin[:, :-1], 0)
    unsorted = np.empty_like(gaps)
    np.put_along_axis(unsorted, order, gaps, axis=1)
    return unsorted
