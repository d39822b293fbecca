"""Pseudoword senses (Gale et al., 1992; Schütze, 1992): word senses whose labels are exact.

Two words are merged into one pseudoword; which of them is meant is known, since it stood there.
A cue, a token of the one word's topic, stands a stated distance before the pseudoword, which is
followed by the word that is meant:

    … cue(bank) … cue(tree) … filler … bank/door [bank] … lamp/tree [tree] …

Seen alone, a pseudoword is right for either word, so that without the cue one in two is right.
Which words are merged, and what cues they have, is the same in all texts of a task: it is learned,
where a cue stands in the text is read.

N texts, Q questions of a text, W pseudowords, C cues of a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from state_core.training.probes.batch import (
    Ids,
    ProbeBatch,
    asked,
    draw_distinct,
    generator,
    require,
)
from state_core.training.probes.filler import Corpus, check_corpus, filler

TABLE_SEED = 0


@dataclass(frozen=True)
class Senses:
    """`questions` pseudowords of a text, each `distance` tokens after its cue.

    The pseudowords are the last `pseudowords` ids of the vocabulary, words and cues are ids before
    them. corpus: a row of ids of words that texts are cut from (what has a role in the task is
    replaced there), random ids if None. ConfigError if something does not fit.
    """

    length: int = 128
    distance: int = 64
    questions: int = 4
    pseudowords: int = 16
    cues: int = 2
    vocab_size: int = 256
    corpus: Corpus | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require(self.cues >= 1, "senses", f"cues must be ≥ 1, got {self.cues}")
        require(
            1 <= self.questions <= self.pseudowords,
            "senses",
            f"questions must be 1 to {self.pseudowords}, the number of pseudowords, "
            f"got {self.questions}",
        )
        longest = self.length - 2 * self.questions
        require(
            2 * self.questions <= self.distance <= longest,
            "senses",
            f"in {self.length} tokens, {self.questions} cues can stand {2 * self.questions} to "
            f"{longest} tokens before their pseudowords, got distance = {self.distance}",
        )
        require(
            self.words > self._roles,
            "senses",
            f"{self.pseudowords} pseudowords of two words with {self.cues} cues each need a "
            f"vocab_size above {self.pseudowords + self._roles}, got {self.vocab_size}",
        )
        check_corpus(self.corpus, "senses", self.length, self.words)

    @property
    def words(self) -> int:
        """How many ids are words: pseudowords follow them."""
        return self.vocab_size - self.pseudowords

    @property
    def _roles(self) -> int:
        return 2 * self.pseudowords * (1 + self.cues)

    @cached_property
    def table(self) -> Ids:
        """[W,2,1+C]: the two words of each pseudoword, each followed by its cues."""
        order = generator("senses table", 1, TABLE_SEED).permutation(self.words)
        return order[: self._roles].reshape(self.pseudowords, 2, 1 + self.cues)

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts of `length`; the word that follows each pseudoword is asked for, and distance
        is from there to the cue."""
        rng = generator("senses", n, seed)
        ids = self._filler(rng, n)
        which = draw_distinct(rng, n, self.pseudowords, self.questions)
        meant = rng.integers(0, 2, which.shape)
        cue = rng.integers(1, 1 + self.cues, which.shape)

        rows = np.arange(n)[:, None]
        first = rng.integers(0, self.length - self.distance - 2 * self.questions + 1, (n, 1))
        cue_at = first + 2 * np.arange(self.questions)
        word_at = cue_at + self.distance + 1
        ids[rows, cue_at] = self.table[which, meant, cue]
        ids[rows, word_at - 1] = self.words + which
        ids[rows, word_at] = self.table[which, meant, 0]
        distance = np.zeros_like(ids)
        distance[rows, word_at] = self.distance + 1
        return asked(ids, distance)

    def _filler(self, rng: np.random.Generator, n: int) -> Ids:
        """Text without words and cues of the table, [N,T]."""
        text = filler(rng, n, self.length, self.words, self.corpus)
        free = np.setdiff1d(np.arange(self.words), self.table)
        return np.where(np.isin(text, self.table), rng.choice(free, text.shape), text)
