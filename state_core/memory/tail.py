"""The latest rows of a table that goes on growing."""

from __future__ import annotations

import torch
from torch import Tensor


class Tail:
    """Keeps the last `capacity` rows. A row costs O(1) amortised to append: the buffer has room for
    twice as many, and is moved to its beginning when it is full."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._data: Tensor | None = None
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def values(self) -> Tensor:
        """The rows held, oldest first, [n,...]: a view, good until the next `append`."""
        assert self._data is not None
        return self._data[self._start : self._end]

    def append(self, rows: Tensor) -> None:
        """Add rows [m,...], and drop the oldest beyond the capacity."""
        rows = rows[max(len(rows) - self.capacity, 0) :]
        self._make_room(rows)
        assert self._data is not None
        self._data[self._end : self._end + len(rows)] = rows
        self._end += len(rows)
        self._start = max(self._start, self._end - self.capacity)

    def _make_room(self, rows: Tensor) -> None:
        if self._data is not None and self._end + len(rows) <= len(self._data):
            return
        kept = rows[:0] if self._data is None else self.values[-self.capacity :]
        wanted = min(2 * (len(kept) + len(rows)), 2 * self.capacity)
        size = max(wanted, len(kept) + len(rows))
        moved = torch.empty(size, *rows.shape[1:], dtype=rows.dtype)
        moved[: len(kept)] = kept
        self._data, self._start, self._end = moved, 0, len(kept)
