"""Return walks in the text so far: the kernel against matrix powers and against whole graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import InputError
from state_core.graph.prefix import Arcs
from state_core.ops.causal_walk_pe import causal_walk_pe
from state_core.ops.random_walk_pe import random_walk_pe
from tests.ops.test_landmark_coordinates import causal_rows


@given(
    batch=st.integers(1, 3), length=st.integers(1, 40), edges=st.integers(0, 6),
    steps=st.integers(1, 7), seed=st.integers(0, 999),
)  # fmt: skip
def test_agrees_with_matrix_powers(
    batch: int, length: int, edges: int, steps: int, seed: int
) -> None:
    rows = causal_rows(batch, length, edges, seed)
    positions = torch.arange(length).expand(batch, length)
    got = causal_walk_pe(*rows, positions, steps, backend="cpu")
    expected = causal_walk_pe(*rows, positions, steps, backend="naive")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_is_what_the_whole_graph_of_each_prefix_gives_its_last_token() -> None:
    neighbors, counts = causal_rows(1, 65, 5, 3)
    got = causal_walk_pe(neighbors, counts, torch.arange(65)[None], 6)[0]
    arcs = Arcs(neighbors[0], counts[0])
    for i in (0, 1, 2, 33, 64):
        whole = random_walk_pe(*arcs.before(i + 1), 6)[-1]
        torch.testing.assert_close(got[i].float(), whole, rtol=1e-5, atol=1e-6)


def test_tokens_apart_and_threads_give_the_same_bits() -> None:
    rows = causal_rows(2, 63, 5, 4)
    positions = torch.arange(63).expand(2, 63)
    whole = causal_walk_pe(*rows, positions, 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in (0, 17, 62):
            assert torch.equal(causal_walk_pe(*rows, positions[:, i : i + 1], 4)[:, 0], whole[:, i])
    finally:
        torch.set_num_threads(before)


def test_later_tokens_change_nothing() -> None:
    neighbors, counts = causal_rows(1, 50, 5, 5)
    positions = torch.arange(30)[None]
    alone = causal_walk_pe(neighbors[:, :30], counts[:, :30], positions, 4)
    assert torch.equal(causal_walk_pe(neighbors, counts, positions, 4), alone)


def test_a_pair_goes_back_and_forth() -> None:
    neighbors, counts = torch.tensor([[[0], [0]]]).int(), torch.tensor([[0, 1]]).int()
    found = causal_walk_pe(neighbors, counts, torch.arange(2)[None], 4)
    assert found.tolist() == [[[0, 0, 0, 0], [0, 1, 0, 1]]]


def test_opcheck() -> None:
    from state_core.ops.causal_walk_pe.cpu import causal_walk_pe as op

    torch.library.opcheck(op, (*causal_rows(2, 12, 3, 1), torch.arange(12).repeat(2, 1), 4))


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_bad_input(backend: str) -> None:
    neighbors, counts = causal_rows(1, 6, 2, 0)
    positions = torch.arange(6)[None]
    with pytest.raises(InputError, match="at least 1 step"):
        causal_walk_pe(neighbors, counts, positions, 0, backend=backend)
    with pytest.raises(InputError, match="positions must lie"):
        causal_walk_pe(neighbors, counts, positions + 1, 2, backend=backend)
    with pytest.raises(InputError, match="int32"):
        causal_walk_pe(neighbors.long(), counts, positions, 2, backend=backend)
    with pytest.raises(InputError, match=r"positions \[B, T\]"):
        causal_walk_pe(neighbors, counts, positions[0], 2, backend=backend)
    with pytest.raises(InputError, match="within 0"):
        causal_walk_pe(neighbors + 9, counts, positions, 2, backend=backend)
