"""A tail holds what a list's last rows would."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.memory.tail import Tail


@given(capacity=st.integers(1, 9), sizes=st.lists(st.integers(0, 14), max_size=12))
def test_it_keeps_the_latest_rows(capacity: int, sizes: list[int]) -> None:
    tail, every = Tail(capacity), torch.zeros(0, 2)
    for n in sizes:
        rows = torch.arange(len(every), len(every) + n)[:, None] * torch.ones(2)
        every = torch.cat([every, rows])
        tail.append(rows)
        assert torch.equal(tail.values, every[-capacity:])
        assert len(tail) == min(len(every), capacity)
