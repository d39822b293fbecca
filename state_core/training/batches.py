"""Windows of a token row, in a seeded order that can be left and taken up anywhere.

Shapes: B batch, T tokens of a window.

The documents lie in one row, each closed by the end-of-document token. An epoch cuts the row into
windows of T tokens, from an offset of its own so that borders fall elsewhere each time, and
shuffles them. Order and offset depend on (seed, epoch) alone: the position is two integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.errors import CheckpointError, DataError

HASHED_BATCHES = 8
POSITION = {"epoch", "window"}


def require_window(tokens: NDArray[np.int64], seq_len: int, what: str) -> None:
    """DataError if a row of tokens is shorter than one window."""
    if len(tokens) >= max(2, seq_len):
        return
    shorter = f", or set train.seq_len to at most {len(tokens)}" if len(tokens) > 1 else ""
    raise DataError(
        f"{what} holds {len(tokens)} tokens, fewer than one window of {seq_len}: "
        f"give more text{shorter}"
    )


@dataclass
class Batches:
    """An endless stream of training batches [B, T] int64; labels are the same ids."""

    tokens: NDArray[np.int64]
    batch_size: int
    seq_len: int
    seed: int
    epoch: int = 0
    window: int = 0
    """How many windows of this epoch have been given."""

    def __post_init__(self) -> None:
        require_window(self.tokens, self.seq_len, "the training text")
        self._plan: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))

    def next(self) -> Tensor:
        """The next batch; an epoch's remainder is filled up from the next epoch."""
        starts = [self._next_start() for _ in range(self.batch_size)]
        return torch.from_numpy(np.stack([self.tokens[s : s + self.seq_len] for s in starts]))

    def state_dict(self) -> dict[str, int | str]:
        """The position, and what it is a position in."""
        return {"epoch": self.epoch, "window": self.window, **self._identity()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go to a saved position; CheckpointError if it is one in other text or other windows."""
        own = self._identity()
        for key in {**state, **own}.keys() - POSITION:
            if state.get(key) != own.get(key):
                raise CheckpointError(
                    f"the checkpoint was trained on other batches: {key} was {state.get(key)}, "
                    f"is {own.get(key)}. Resume with the configuration and the text of the run"
                )
        self.epoch, self.window = int(state["epoch"]), int(state["window"])

    def data_hash(self) -> str:
        """sha256 of the bytes of the first batches of the run, in hex; the position stays."""
        fresh = replace(self, epoch=0, window=0)
        digest = hashlib.sha256()
        for _ in range(HASHED_BATCHES):
            digest.update(fresh.next().numpy().tobytes())
        return digest.hexdigest()

    def _identity(self) -> dict[str, int | str]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "text": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
        }

    def _next_start(self) -> int:
        epoch, starts = self._plan
        if epoch != self.epoch:
            starts = self._starts(self.epoch)
        if self.window >= len(starts):
            self.epoch, self.window = self.epoch + 1, 0
            starts = self._starts(self.epoch)
        self._plan = (self.epoch, starts)
        self.window += 1
        return int(starts[self.window - 1])

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, epoch])
        spare = len(self.tokens) - self.seq_len
        offset = int(generator.integers(min(spare, self.seq_len - 1) + 1)) if epoch else 0
        return generator.permutation(np.arange(offset, spare + 1, self.seq_len))


def windows(
    tokens: NDArray[np.int64], seq_len: int, batch_size: int, what: str = "the text"
) -> Iterator[Tensor]:
    """All non-overlapping windows in order, [≤ B, T] int64; a remainder shorter than T is left."""
    require_window(tokens, seq_len, what)
    whole = len(tokens) // seq_len
    rows = torch.from_numpy(tokens[: whole * seq_len].reshape(whole, seq_len))
    yield from torch.split(rows, batch_size)
