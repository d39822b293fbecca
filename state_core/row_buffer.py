"""A growing buffer of per-token values, one row per text, each row with its own length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RowBuffer:
    """Values of the tokens read so far: a view [B, S, ...] that grows as tokens are written.

    Rows may have different lengths; entries past a row's length are unspecified and nothing may
    read them. Capacity doubles, so that writing one token costs O(1) amortised.
    """

    def __init__(self, values: Tensor | None = None) -> None:
        self._data = values
        self.size = 0 if values is None else values.shape[1]

    def write(self, values: Tensor, positions: Tensor) -> Tensor:
        """Write `values` [B,T,...] at `positions` [B,T] and return all values [B,S,...]."""
        if values.shape[1] == 0:
            return self.view(values)
        first, last = int(positions[:, 0].min()), int(positions[:, -1].max())
        self._reserve(last + 1, values)
        assert self._data is not None
        if first + values.shape[1] == last + 1:
            self._data[:, first : last + 1] = values
        else:
            rows = torch.arange(values.shape[0], device=values.device)[:, None]
            self._data[rows, positions] = values
        self.size = max(self.size, last + 1)
        return self._data[:, : self.size]

    def view(self, like: Tensor) -> Tensor:
        """All values written so far, [B,S,...]; empty ones shaped as `like` if there are none."""
        return like[:, :0] if self.values is None else self.values

    @property
    def values(self) -> Tensor | None:
        """All values written so far, [B,S,...], None if there are none."""
        return None if self._data is None else self._data[:, : self.size]

    def snapshot(self) -> RowBuffer:
        """The values written so far, not copied: whoever writes on, here or there, does so into
        memory of its own. For values that are written once."""
        return RowBuffer(self.values)

    def copy(self) -> RowBuffer:
        """The values written so far, copied."""
        return RowBuffer(None if self.values is None else self.values.clone())

    def _reserve(self, size: int, like: Tensor) -> None:
        held = 0 if self._data is None else self._data.shape[1]
        if size <= held:
            return
        grown = like.new_zeros(like.shape[0], max(size, 2 * held, 64), *like.shape[2:])
        if self._data is not None:
            grown[:, : self.size] = self._data[:, : self.size]
        self._data = grown

    @classmethod
    def stack(cls, buffers: Sequence[RowBuffer]) -> RowBuffer:
        """Join the rows of several buffers into one batch, padding the shorter ones."""
        held = [b.values for b in buffers if b.values is not None]
        if not held:
            return cls()
        size = max(values.shape[1] for values in held)
        padded = [v.new_zeros(v.shape[0], size, *v.shape[2:]) for v in held]
        for target, values in zip(padded, held, strict=True):
            target[:, : values.shape[1]] = values
        return cls(torch.cat(padded))
