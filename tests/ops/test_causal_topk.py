"""The exact causal top-K: backends agree, streaming equals the batch bit for bit, bad input."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from state_core.errors import InputError
from state_core.ops import causal_topk

DTYPES = (torch.float32, torch.float64)
Place = tuple[str, torch.device]


def tied_rows(batch: int, tokens: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small whole numbers: every score is exact in any order of summation, and many are equal."""
    return torch.randint(-1, 2, (batch, tokens, d)).to(dtype)


def assert_same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(a[0], b[0])
    bits = torch.int32 if a[1].dtype == torch.float32 else torch.int64
    assert torch.equal(a[1].view(bits), b[1].view(bits))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("tokens", "d", "k", "exclude"),
    [(1, 3, 4, 1), (2, 1, 4, 1), (5, 3, 8, 2), (63, 12, 5, 9), (65, 20, 16, 1), (150, 4, 3, 70)],
)
def test_equals_naive(
    place: Place, tokens: int, d: int, k: int, exclude: int, causal: bool, dtype: torch.dtype
) -> None:
    backend, device = place
    u = tied_rows(2, tokens, d, dtype).to(device)
    ks = torch.randint(0, k + 1, (2, tokens)).to(device)
    for number in (k, ks):
        ours, naive = (
            causal_topk(u, number, exclude, causal=causal, width=k, backend=name)
            for name in (backend, "naive")
        )
        assert_same(ours, naive)


def test_real_scores_are_within_rounding_of_naive(place: Place) -> None:
    backend, device = place
    u = torch.randn(2, 90, 12, dtype=torch.float64).to(device)
    indices, scores = causal_topk(u, 6, 3, backend=backend)
    expected_indices, expected = causal_topk(u, 6, 3, backend="naive")
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(scores, expected, rtol=1e-14, atol=1e-14)


@given(
    tokens=st.integers(1, 140),
    d=st.sampled_from([3, 12, 16, 64]),
    k=st.integers(1, 20),
    exclude=st.integers(1, 12),
    cuts=st.sets(st.integers(1, 139), max_size=12),
    tied=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_any_split_gives_the_rows_of_the_batch(
    tokens: int, d: int, k: int, exclude: int, cuts: set[int], tied: bool, dtype: torch.dtype
) -> None:
    u = tied_rows(2, tokens, d, dtype) if tied else torch.randn(2, tokens, d, dtype=dtype)
    ks = torch.randint(0, k + 1, (2, tokens))
    whole = causal_topk(u, ks, exclude, width=k)
    cache = torch.full((2, tokens + 7, d), torch.nan, dtype=dtype)
    borders = [0, *sorted(cut for cut in cuts if cut < tokens), tokens]
    for start, stop in pairwise(borders):
        part = slice(start, stop)
        cache[:, part] = u[:, part]
        rows = causal_topk(
            u[:, part],
            ks[:, part],
            exclude,
            keys=cache[:, :stop],
            positions=torch.arange(start, stop).expand(2, -1),
            width=k,
        )
        assert_same(rows, (whole[0][:, part], whole[1][:, part]))


def test_triton_splits_a_text_and_a_walk_without_a_trace(triton_device: torch.device) -> None:
    u = torch.randn(1, 300, 12)
    u[0, 200:] = u[0, 50:150]  # equal scores in different parts
    u = u.to(triton_device)
    whole = causal_topk(u, 7, 3, backend="triton")
    for start, stop in ((0, 1), (1, 40), (270, 272), (299, 300)):
        positions = torch.arange(start, stop, device=triton_device)[None]
        part = slice(start, stop)
        rows = causal_topk(
            u[:, part], 7, 3, keys=u[:, :stop], positions=positions, backend="triton"
        )
        assert_same(rows, (whole[0][:, part], whole[1][:, part]))


def test_rows_behind_all_keys_see_every_key(place: Place) -> None:
    backend, device = place
    u = tied_rows(2, 45, 5).to(device)
    positions = torch.full((2, 45), 99, device=device)
    ours, naive = (
        causal_topk(u, 6, positions=positions, backend=name) for name in (backend, "naive")
    )
    assert_same(ours, naive)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gives_the_bits_of_the_cpu(dtype: torch.dtype) -> None:
    u = torch.randn(2, 500, 64, dtype=dtype)
    indices, scores = causal_topk(u.cuda(), 16, 3)
    assert_same((indices.cpu(), scores.cpu()), causal_topk(u, 16, 3))


@pytest.mark.parametrize("tokens", [4, 40])
def test_a_row_does_not_see_its_batch_nor_what_lies_behind_its_position(
    place: Place, tokens: int
) -> None:
    backend, device = place
    keys = torch.randn(3, 200, 12)
    keys[0, 30:] = torch.nan  # an unused tail of a shorter text
    positions = torch.stack([torch.arange(n, n + tokens) for n in (30 - tokens, 70, 150)])
    u = torch.stack([keys[b, positions[b].clamp(min=0)] for b in range(3)]).to(device)
    keys, positions = keys.to(device), positions.to(device)
    together = causal_topk(u, 5, 2, keys=keys, positions=positions, backend=backend)
    for b in range(3):
        known = int(positions[b, -1]) + 1
        alone = causal_topk(
            u[b : b + 1],
            5,
            2,
            keys=keys[b : b + 1, :known],
            positions=positions[b : b + 1],
            backend=backend,
        )
        assert_same(alone, (together[0][b : b + 1], together[1][b : b + 1]))
    assert (together[0][positions < 2] == -1).all()


def test_ties_go_to_the_most_recent(place: Place) -> None:
    backend, device = place
    indices, scores = causal_topk(torch.ones(1, 70, 4, device=device), 3, 2, backend=backend)
    assert indices[0, 69].tolist() == [67, 66, 65]
    assert indices[0, 3].tolist() == [1, 0, -1]
    assert scores[0, 3].tolist() == [4.0, 4.0, -torch.inf]
    u = torch.ones(1, 9, 4, device=device)
    both_ways, _ = causal_topk(u, 3, 2, causal=False, backend=backend)
    assert both_ways[0, 0].tolist() == [8, 7, 6]
    assert both_ways[0, 7].tolist() == [5, 4, 3]


def test_negative_zero_is_zero(place: Place) -> None:
    backend, device = place
    u = torch.tensor([[[1e-30], [-1e-30], [1e-30], [0.0], [-0.0]]], device=device)
    for keys in (u, u.repeat(1, 3, 1)):  # both kernels: 5 rows, and below 1 row
        positions = torch.arange(5, device=device)[None]
        rows = causal_topk(u, 4, keys=keys, positions=positions, backend=backend)
        last = causal_topk(u[:, 4:], 4, keys=keys, positions=positions[:, 4:], backend=backend)
        assert_same(last, (rows[0][:, 4:], rows[1][:, 4:]))
        assert rows[0][0, 4].tolist() == [3, 2, 1, 0]
        assert not torch.signbit(rows[1][0, 4]).any()


def test_empty_batches_and_no_neighbours_wanted(place: Place) -> None:
    backend, device = place
    for size, k in (((0, 5, 3), 2), ((2, 0, 3), 2), ((2, 9, 3), 0)):
        indices, _ = causal_topk(torch.zeros(size, device=device), k, backend=backend)
        assert indices.shape == (*size[:2], k)
    u, padding = torch.zeros(1, 3, 3, device=device), torch.full((1, 3), -1, device=device)
    nobody = causal_topk(u, 2, positions=padding, backend=backend)
    assert (nobody[0] == -1).all()
    assert (nobody[1] == -torch.inf).all()


@pytest.mark.parametrize("tokens", [2, 80])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_refuses_what_is_not_finite(place: Place, tokens: int, value: float) -> None:
    u = torch.randn(2, tokens, 5)
    u[1, 0, 3] = value
    u = u.to(place[1])
    for backend in (place[0], "naive"):
        with pytest.raises(InputError, match="NaN or infinity"):
            causal_topk(u, 2, backend=backend)
        with pytest.raises(InputError, match="NaN or infinity"):
            causal_topk(torch.zeros_like(u), 2, keys=u, backend=backend)


def test_refuses_wrong_arguments() -> None:
    u = torch.zeros(2, 6, 3)
    wrong: list[tuple[str, dict[str, object]]] = [
        ("exclude must be at least 1", {"exclude": 0}),
        ("k must lie between", {"k": -1}),
        ("k must lie between", {"k": 5, "width": 4}),
        ("k must be an integer or", {"k": torch.ones(2, 5, dtype=torch.int32)}),
        ("u must be", {"u": torch.zeros(6, 3)}),
        ("u must be", {"u": u.half()}),
        ("do not go with u", {"keys": torch.zeros(2, 6, 4)}),
        ("keys must be", {"keys": u.double()}),
        ("positions must be", {"positions": torch.zeros(2, 5, dtype=torch.int64)}),
    ]
    for message, change in wrong:
        with pytest.raises(InputError, match=message):
            causal_topk(**{"u": u, "k": 2, **change})  # type: ignore[arg-type]


def test_opcheck_and_compile(place: Place) -> None:
    backend, device = place
    op = import_module(f"state_core.ops.causal_topk.{backend}").causal_topk
    u = torch.randn(2, 9, 4, device=device)
    positions = torch.arange(9, device=device).expand(2, 9)
    ks = torch.full((2, 9), 3, dtype=torch.int32, device=device)
    torch.library.opcheck(op, (u, u, positions, ks, 3, 1, True))
    compiled = torch.compile(
        lambda x: causal_topk(x, 3, backend=backend)[1] + 1, backend="aot_eager"
    )
    assert torch.equal(compiled(u), causal_topk(u, 3, backend=backend)[1] + 1)
