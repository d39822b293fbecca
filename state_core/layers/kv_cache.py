"""The keys and values of the tokens read so far."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from state_core.row_buffer import RowBuffer


class KVCache:
    """Keys and values [B,S,H,D] of an attention layer."""

    def __init__(self) -> None:
        self.keys = RowBuffer()
        self.values = RowBuffer()

    def write(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B,T,H,D] at `positions` [B,T]; returns all keys and values [B,S,H,D]."""
        return self.keys.write(k, positions), self.values.write(v, positions)

    def snapshot(self) -> KVCache:
        """A copy that what is read from now on does not change."""
        copy = KVCache()
        copy.keys, copy.values = self.keys.snapshot(), self.values.snapshot()
        return copy

    @classmethod
    def stack(cls, caches: Sequence[KVCache]) -> KVCache:
        """Join the rows of several caches into one batch."""
        joined = cls()
        joined.keys = RowBuffer.stack([c.keys for c in caches])
        joined.values = RowBuffer.stack([c.values for c in caches])
        return joined
