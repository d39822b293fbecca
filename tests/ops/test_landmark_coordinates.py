"""Coordinates of new tokens: the kernel against a loop, in pieces and at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import InputError
from state_core.ops.landmark_coordinates import landmark_coordinates


def causal_rows(
    batch: int, length: int, edges: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of distinct earlier tokens, some of them empty: neighbors [B,S,E], counts [B,S]."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, length, max(length, edges), generator=generator)
    past = torch.arange(max(length, edges)) < torch.arange(length)[:, None]
    neighbors = order.masked_fill(~past, 2.0).argsort(-1)[..., :edges].int()
    wanted = torch.randint(edges + 1, (batch, length), generator=generator)
    return neighbors, torch.minimum(wanted, torch.arange(length)).int()


def start(batch: int, length: int, landmarks: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Borders, and a table with something before each."""
    generator = torch.Generator().manual_seed(seed)
    born = torch.randint(length + 3, (batch, landmarks), generator=generator)
    table = torch.randint(-1, 5, (batch, length, landmarks), generator=generator).int()
    later = torch.arange(length)[:, None] >= born[:, None]
    return born, table.masked_fill(later, -1)


@given(
    batch=st.integers(1, 3), length=st.integers(1, 65), edges=st.integers(0, 7),
    landmarks=st.integers(0, 17), cut=st.integers(0, 64), seed=st.integers(0, 999),
)  # fmt: skip
def test_agrees_with_the_loop_however_it_is_cut(
    batch: int, length: int, edges: int, landmarks: int, cut: int, seed: int
) -> None:
    neighbors, counts = causal_rows(batch, length, edges, seed)
    positions = torch.arange(length).expand(batch, length)
    born, expected = start(batch, length, landmarks, seed)
    got = expected.clone()
    landmark_coordinates(neighbors, counts, positions, born, expected, backend="naive")
    for part in (slice(0, cut), slice(cut, length)):
        rows = neighbors[:, part], counts[:, part], positions[:, part]
        landmark_coordinates(*rows, born, got, backend="cpu")
    assert torch.equal(got, expected)


def test_a_chain_counts_its_links() -> None:
    neighbors = torch.tensor([[[0], [0], [1], [2]]]).int()
    counts = torch.tensor([[0, 1, 1, 1]]).int()
    table = torch.tensor([[[0], [-1], [-1], [-1]]]).int()
    born = torch.ones(1, 1, dtype=torch.int64)
    landmark_coordinates(neighbors, counts, torch.arange(4)[None], born, table)
    assert table.flatten().tolist() == [0, 1, 2, 3]


def test_rows_of_a_longer_buffer_are_written_in_place() -> None:
    neighbors, counts = causal_rows(2, 20, 4, 0)
    positions = torch.arange(20).expand(2, 20)
    born, table = start(2, 20, 5, 0)
    longer = torch.full((2, 64, 5), 99, dtype=torch.int32)
    longer[:, :20] = table
    landmark_coordinates(neighbors, counts, positions, born, longer[:, :20])
    landmark_coordinates(neighbors, counts, positions, born, table)
    assert torch.equal(longer[:, :20], table)
    assert bool((longer[:, 20:] == 99).all())


def test_opcheck() -> None:
    from state_core.ops.landmark_coordinates.cpu import landmark_coordinates as op

    neighbors, counts = causal_rows(2, 12, 3, 1)
    born, table = start(2, 12, 4, 1)
    torch.library.opcheck(op, (neighbors, counts, torch.arange(12).repeat(2, 1), born, table))


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_bad_input(backend: str) -> None:
    neighbors, counts = causal_rows(1, 6, 2, 0)
    positions, (born, table) = torch.arange(6)[None], start(1, 6, 3, 0)
    with pytest.raises(InputError, match="positions must lie"):
        landmark_coordinates(neighbors, counts, positions + 1, born, table, backend=backend)
    with pytest.raises(InputError, match="born must be"):
        landmark_coordinates(neighbors, counts, positions, born.int(), table, backend=backend)
    with pytest.raises(InputError, match=r"table \[B, S, L\]"):
        landmark_coordinates(neighbors, counts, positions, born, table[0], backend=backend)
    with pytest.raises(InputError, match="contiguous"):
        landmark_coordinates(
            neighbors, counts, positions, born, table.mT.contiguous().mT, backend=backend
        )
