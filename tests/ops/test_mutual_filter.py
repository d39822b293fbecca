"""Causal mutual k-NN: the definition by brute force, backends, streaming, causality, bad input."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from state_core.errors import InputError
from state_core.ops import causal_topk, mutual_filter

DTYPES = (torch.float32, torch.float64)


def lists(u: Tensor, ks: Tensor, k: int, exclude: int, **place: Tensor) -> tuple[Tensor, Tensor]:
    """What the graph gives the filter: the first K_i of each row's K best, and all K scores."""
    indices, scores = causal_topk(u, k, exclude, **place)
    return torch.where(torch.arange(k) < ks[..., None], indices, -1), scores


def by_definition(indices: Tensor, u: Tensor, ks: Tensor, exclude: int) -> Tensor:
    """Counts, for every edge i -> j, the earlier tokens that j likes better than i."""
    keep = torch.zeros_like(indices, dtype=torch.bool)
    similarity = u @ u.mT
    for b, i, e in (indices >= 0).nonzero().tolist():
        j = int(indices[b, i, e])
        t = torch.arange(i)
        better = (similarity[b, :i, j] > similarity[b, i, j]) & ((t - j).abs() >= exclude)
        keep[b, i, e] = better.sum() < ks[b, j]
    return keep


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "k", "exclude"), [(1, 2, 1), (2, 3, 1), (5, 4, 2), (63, 3, 1), (65, 12, 9)]
)
def test_backends_follow_the_definition(
    tokens: int, k: int, exclude: int, dtype: torch.dtype
) -> None:
    u = torch.randint(-2, 3, (2, tokens, 3)).to(dtype)  # exact scores, many ties
    ks = torch.randint(0, k + 1, (2, tokens))
    indices, scores = lists(u, ks, k, exclude)
    expected = by_definition(indices, u, ks, exclude)
    for backend in ("cpu", "naive"):
        assert torch.equal(
            mutual_filter(indices, scores, u, ks, exclude, backend=backend), expected
        )
    if tokens > 60:
        assert expected.any()
        assert (expected != (indices >= 0)).any()


@given(
    tokens=st.integers(1, 140),
    d=st.sampled_from([3, 12, 16]),
    k=st.integers(1, 12),
    exclude=st.integers(1, 9),
    cuts=st.sets(st.integers(1, 139), max_size=12),
    tied=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_any_split_gives_the_edges_and_bars_of_the_batch(
    tokens: int, d: int, k: int, exclude: int, cuts: set[int], tied: bool, dtype: torch.dtype
) -> None:
    u = torch.randn(2, tokens, d, dtype=dtype)
    u = u.sign() if tied else u
    ks = torch.randint(0, k + 1, (2, tokens))
    whole_bars = torch.empty(2, tokens, k, dtype=dtype)
    whole = mutual_filter(*lists(u, ks, k, exclude), u, ks, exclude, bars=whole_bars)
    buffer = torch.empty(2, tokens + 5, k, dtype=dtype)
    for start, stop in pairwise([0, *sorted(cut for cut in cuts if cut < tokens), tokens]):
        part = slice(start, stop)
        place = {
            "keys": u[:, :stop],
            "positions": torch.arange(start, stop).expand(2, -1),
        }
        chosen = lists(u[:, part], ks[:, part], k, exclude, **place)
        bars = buffer[:, :stop]
        keep = mutual_filter(*chosen, u[:, part], ks[:, part], exclude, bars=bars, **place)
        assert torch.equal(keep, whole[:, part])
    assert torch.equal(buffer[:, :tokens], whole_bars)


def test_the_bars_agree_between_backends() -> None:
    u = torch.randint(-2, 3, (2, 70, 3)).float()
    indices, scores = causal_topk(u, 4)
    cpu, naive = torch.empty(2, 2, 70, 4)
    for backend, bars in (("cpu", cpu), ("naive", naive)):
        mutual_filter(indices, scores, u, bars=bars, backend=backend)
    assert torch.equal(cpu, naive)


def test_a_hub_raises_its_own_bar() -> None:
    """Each later token is nearer to token 0 than the last: all stay. In reverse: only K do."""
    angles = torch.linspace(0.1, 1.2, 12)
    for order, kept in ((angles.flip(0), 12), (angles, 2)):
        spokes = torch.stack([order.cos(), order.sin(), torch.zeros(12)], dim=-1)
        u = torch.cat([torch.tensor([[1.0, 0.0, 0.0]]), spokes])[None]
        indices = torch.tensor([-1] + [0] * 12, dtype=torch.int32)[None, :, None].expand(-1, -1, 2)
        _, scores = causal_topk(u, 2)
        keep = mutual_filter(indices, scores, u)
        assert int(keep[0, :, 0].sum()) == kept


@pytest.mark.parametrize("tokens", [3, 50])
def test_rows_of_padding_change_nothing(tokens: int) -> None:
    u = torch.randn(1, tokens, 4)
    indices, scores = causal_topk(u, 3)
    expected_bars = torch.empty(1, tokens, 3)
    expected = mutual_filter(indices, scores, u, bars=expected_bars)
    positions = torch.cat([torch.arange(tokens), torch.full((2,), -1)])[None]
    padded = torch.cat([u, torch.randn(1, 2, 4)], dim=1)
    place = {"keys": u, "positions": positions}
    bars = torch.empty(1, tokens, 3)
    keep = mutual_filter(*causal_topk(padded, 3, **place), padded, bars=bars, **place)
    assert torch.equal(keep[:, :tokens], expected)
    assert not keep[:, tokens:].any()
    assert torch.equal(bars, expected_bars)


def test_refuses_wrong_arguments() -> None:
    u = torch.zeros(2, 6, 3)
    indices, scores = causal_topk(u, 2)
    good = {"indices": indices, "scores": scores, "u": u}
    far = torch.full((2, 6), 6)
    wrong: list[tuple[str, dict[str, object]]] = [
        ("indices must be", {"indices": indices.long()}),
        ("scores must be", {"scores": scores.double()}),
        ("exclude must be", {"exclude": 0}),
        ("k must lie between", {"k": 3}),
        ("earlier tokens need their bars", {"keys": torch.zeros(2, 9, 3)}),
        ("bars must be", {"bars": torch.zeros(2, 6, 3)}),
        ("must be contiguous", {"bars": torch.zeros(2, 2, 6).mT}),
        ("positions must lie below 6", {"positions": far}),
    ]
    for message, change in wrong:
        with pytest.raises(InputError, match=message):
            mutual_filter(**{**good, **change})  # type: ignore[arg-type]


def test_opcheck() -> None:
    from state_core.ops.mutual_filter.cpu import mutual_filter as op

    u = torch.randn(2, 9, 4)
    indices, scores = causal_topk(u, 3)
    positions = torch.arange(9).expand(2, 9)
    ks = torch.full((2, 9), 3, dtype=torch.int32)
    torch.library.opcheck(op, (indices, scores, u, u, positions, ks, torch.zeros(2, 9, 3), 1))
