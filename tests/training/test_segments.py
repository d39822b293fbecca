"""Segments follow one another, and every token is predicted once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import CheckpointError, DataError
from state_core.training.batches import Batches
from state_core.training.segments import SegmentBatches, document_numbers

END = 0


def row(n: int) -> np.ndarray:
    """Numbers that occur once each, but for the ends of documents of eleven."""
    tokens = np.arange(1, n + 1)
    tokens[10::11] = END
    return tokens


def segments(n: int, batch_size: int, seq_len: int, seed: int = 0) -> SegmentBatches:
    return SegmentBatches(row(n), batch_size, seq_len, seed, end=END)


def test_documents_are_numbered_and_own_their_end() -> None:
    assert document_numbers(np.array([5, 5, 0, 7, 0, 8]), 0).tolist() == [0, 0, 0, 1, 1, 2]


@given(
    batch_size=st.integers(1, 4), seq_len=st.integers(2, 9), n=st.integers(80, 200),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_a_segment_begins_where_the_last_one_ended(
    batch_size: int, seq_len: int, n: int, seed: int
) -> None:
    batches = segments(n, batch_size, seq_len, seed)
    rolled = np.roll(row(n), -int(np.random.default_rng([seed, 0]).integers(n)))
    lanes = rolled[: n // batch_size * batch_size].reshape(batch_size, -1)
    read, count = [batches.next()], 1
    assert batches.begins
    while True:
        ids = batches.next()
        if batches.begins:
            break
        assert torch.equal(ids[:, 0], read[-1][:, -1])
        read.append(ids[:, 1:])
        count += 1
    whole = torch.cat(read, dim=1).numpy()
    assert np.array_equal(whole, lanes[:, : whole.shape[1]])
    assert lanes.shape[1] - whole.shape[1] < seq_len
    assert batches.epoch == 1


def test_documents_go_with_their_tokens() -> None:
    batches, numbers = segments(120, 2, 8), document_numbers(row(120), END)
    ids = batches.next()
    known = ids != END
    assert torch.equal(batches.documents[known], torch.from_numpy(numbers)[ids[known] - 1])


def test_taken_up_anywhere_it_goes_on_the_same() -> None:
    whole, parts = segments(200, 2, 9), segments(200, 2, 9)
    for _ in range(15):
        parts.next()
        expected = whole.next()
    resumed = segments(200, 2, 9)
    resumed.load_state_dict({**parts.state_dict()})
    again = [resumed.next() for _ in range(4)]
    assert [a.tolist() for a in again] == [whole.next().tolist() for _ in range(4)]
    assert expected.shape == (2, 9)


def test_seeds_differ_and_the_hash_tells() -> None:
    assert segments(200, 2, 9).data_hash() != segments(200, 2, 9, seed=1).data_hash()
    moved = segments(200, 2, 9)
    moved.next()
    assert moved.data_hash() == segments(200, 2, 9).data_hash()


def test_windows_in_another_order_are_another_run() -> None:
    windows, consecutive = Batches(row(200), 2, 9, 0), segments(200, 2, 9)
    with pytest.raises(CheckpointError, match="other batches"):
        consecutive.load_state_dict(windows.state_dict())
    with pytest.raises(CheckpointError, match="other batches"):
        windows.load_state_dict(consecutive.state_dict())


def test_a_text_too_short_for_its_lanes_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than one window"):
        segments(30, 4, 9)
