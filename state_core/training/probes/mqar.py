"""Multi-query associative recall (Zoology, arXiv 2312.04927).

Key-value pairs, then each key once more, where its value is asked for:

    k1 v1 k2 v2 … kn vn | … k2 v2 … … kn vn … k1 v1 …

How long after the pairs a key returns follows a power law: slot s of the second part is drawn with
a probability ∝ s^(power − 1), so that most return soon. Between them stand values that belong to
no key, so that a key occurs in its pair and in its question only.

N texts, P pairs, S slots of two tokens after the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from state_core.training.probes.batch import ProbeBatch, asked, draw_distinct, generator, require


@dataclass(frozen=True)
class MQAR:
    """Keys are the ids below vocab_size / 2, values the others, so that guessing is right once in
    vocab_size / 2. ConfigError if the pairs and their questions do not fit."""

    length: int = 512
    pairs: int = 64
    vocab_size: int = 256
    power: float = 0.01

    def __post_init__(self) -> None:
        require(self.pairs >= 1, "mqar", f"pairs must be at least 1, got {self.pairs}")
        require(self.length % 2 == 0, "mqar", f"length must be even, got {self.length}")
        require(
            self.length >= 4 * self.pairs,
            "mqar",
            f"{self.pairs} pairs and as many questions need a length of {4 * self.pairs}, "
            f"got {self.length}",
        )
        require(
            self.vocab_size >= 2 * self.pairs and self.vocab_size % 2 == 0,
            "mqar",
            f"half of vocab_size are keys: it must be even and at least {2 * self.pairs} for "
            f"{self.pairs} pairs, got {self.vocab_size}",
        )
        require(self.power > 0, "mqar", f"power must be positive, got {self.power}")

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts of `length`; distance is from a value to the same value in its pair."""
        rng = generator("mqar", n, seed)
        half, pairs = self.vocab_size // 2, self.pairs
        keys = draw_distinct(rng, n, half, pairs)
        ids = rng.integers(half, self.vocab_size, (n, self.length))
        ids[:, 0 : 2 * pairs : 2] = keys
        values = ids[:, 1 : 2 * pairs : 2]

        position = 2 * pairs + 2 * self._slots(rng, n)
        rows = np.arange(n)[:, None]
        ids[rows, position] = keys
        ids[rows, position + 1] = values
        distance = np.zeros_like(ids)
        distance[rows, position + 1] = position - 2 * np.arange(pairs)
        return asked(ids, distance)

    def _slots(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Where each key returns, [N,P], without replacement: the order of log p plus Gumbel noise
        is that of drawing one after the other."""
        count = self.length // 2 - self.pairs
        log_p = (self.power - 1) * np.log(np.arange(1, count + 1))
        return (-(log_p + rng.gumbel(size=(n, count)))).argsort(axis=1)[:, : self.pairs]
