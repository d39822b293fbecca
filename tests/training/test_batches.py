from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import CheckpointError, DataError
from state_core.training.batches import Batches, windows


def row(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64)


@given(
    n=st.integers(2, 200),
    seq_len=st.integers(1, 30),
    batch_size=st.integers(1, 5),
    skip=st.integers(0, 40),
)
def test_a_restored_stream_goes_on_exactly(
    n: int, seq_len: int, batch_size: int, skip: int
) -> None:
    tokens = row(max(n, seq_len))
    one = Batches(tokens, batch_size, seq_len, seed=3)
    for _ in range(skip):
        one.next()
    other = Batches(tokens, batch_size, seq_len, seed=3)
    other.load_state_dict(one.state_dict())
    for _ in range(10):
        assert torch.equal(one.next(), other.next())
    assert one.state_dict() == other.state_dict()


@given(n=st.integers(20, 300), seq_len=st.integers(2, 20), epochs=st.integers(1, 3))
def test_an_epoch_shows_disjoint_windows_once(n: int, seq_len: int, epochs: int) -> None:
    batches = Batches(row(n), 1, seq_len, seed=0)
    for epoch in range(epochs):
        whole = len(batches._starts(epoch))
        seen = torch.cat([batches.next()[0] for _ in range(whole)])
        assert len(seen.unique()) == len(seen) == whole * seq_len
        assert batches.epoch == epoch
        assert n - whole * seq_len < 2 * seq_len


def test_windows_are_contiguous_int64_and_shuffled() -> None:
    batches = Batches(row(1000), 4, 10, seed=0)
    ids = batches.next()
    assert ids.dtype == torch.int64
    assert ids.shape == (4, 10)
    assert bool((ids.diff(dim=1) == 1).all())
    assert not torch.equal(ids, Batches(row(1000), 4, 10, seed=1).next())
    assert set(batches._starts(0) % 10) != set(batches._starts(1) % 10)


def test_the_hash_is_of_the_first_batches_wherever_the_stream_stands() -> None:
    batches = Batches(row(500), 2, 8, seed=0)
    first = batches.data_hash()
    batches.next()
    assert batches.data_hash() == first
    assert Batches(row(500), 2, 8, seed=1).data_hash() != first
    assert Batches(row(500)[::-1].copy(), 2, 8, seed=0).data_hash() != first


def test_a_position_in_other_text_is_refused() -> None:
    state = Batches(row(500), 2, 8, seed=0).state_dict()
    for other in (
        Batches(row(501), 2, 8, 0),
        Batches(row(500), 2, 9, 0),
        Batches(row(500), 2, 8, 1),
    ):
        with pytest.raises(CheckpointError, match="other batches"):
            other.load_state_dict(state)


def test_a_text_shorter_than_a_window_is_an_error() -> None:
    Batches(row(8), 2, 8, seed=0).next()
    with pytest.raises(DataError, match=r"7 tokens, fewer than one window of 8.*at most 7"):
        Batches(row(7), 2, 8, seed=0)
    with pytest.raises(DataError, match="0 tokens"):
        list(windows(row(0), 8, 2))


def test_evaluation_windows_are_all_and_in_order() -> None:
    found = list(windows(row(53), 5, 4))
    assert [len(w) for w in found] == [4, 4, 2]
    assert torch.equal(torch.cat(found).flatten(), torch.arange(50))
