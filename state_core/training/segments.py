"""Consecutive segments of a token row, for models that remember earlier ones.

Shapes: B batch, T tokens of a segment.

An epoch rolls the row of documents to a seeded beginning and cuts it into B lanes. Row b of each
batch is the next segment of lane b; a segment begins with the last token of the one before, so that
every token but a lane's first is predicted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.training.batches import Batches, require_window


def document_numbers(tokens: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """The number of each token's document; `end` closes one."""
    closed = np.cumsum(tokens == end)
    return np.concatenate([[0], closed[:-1]]) if len(tokens) else closed


@dataclass
class SegmentBatches(Batches):
    """An endless stream of batches [B, T] int64, each going on where the one before ended.

    end: the end-of-document token. `window` counts the segments of a lane.
    """

    end: int = 0

    def __post_init__(self) -> None:
        require_window(self.tokens, self.batch_size * self.seq_len, "the training text")
        self._lanes = lru_cache(maxsize=1)(self._cut)
        self.documents = torch.zeros(self.batch_size, self.seq_len, dtype=torch.int64)
        """The number of the document of each token of the batch given last, [B,T]."""

    @property
    def begins(self) -> bool:
        """Whether the batch given last begins an epoch: what was remembered is of another."""
        return self.window == 1

    def next(self) -> Tensor:
        """The next batch; an epoch ends when its lanes do, and leaves less than a segment each."""
        if self.window >= self._segments:
            self.epoch, self.window = self.epoch + 1, 0
        tokens, documents = self._lanes(self.epoch)
        start = self.window * (self.seq_len - 1)
        self.window += 1
        part = slice(start, start + self.seq_len)
        self.documents = torch.from_numpy(documents[:, part])
        return torch.from_numpy(tokens[:, part].copy())

    @property
    def _segments(self) -> int:
        """How many segments a lane has."""
        return (len(self.tokens) // self.batch_size - 1) // (self.seq_len - 1)

    def _identity(self) -> dict[str, int | str]:
        return {**super()._identity(), "consecutive": 1, "end": self.end}

    def _cut(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The lanes of an epoch, and the documents of their tokens."""
        shift = int(np.random.default_rng([self.seed, epoch]).integers(len(self.tokens)))
        width = len(self.tokens) // self.batch_size
        rows = (self.tokens, document_numbers(self.tokens, self.end))
        rolled = [np.roll(row, -shift)[: width * self.batch_size] for row in rows]
        tokens, documents = (row.reshape(self.batch_size, width) for row in rolled)
        return tokens, documents
