"""Scores of given edges: backends and gradients, the bits of causal_topk, compile, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops import causal_topk, edge_scores

SIZES = [(2, 1, 1, 3, 1), (1, 2, 9, 12, 4), (2, 63, 63, 4, 9), (1, 65, 70, 33, 40), (1, 4, 4, 3, 0)]


def edges(batch: int, rows: int, keys: int, width: int) -> tuple[Tensor, Tensor]:
    """A table with empty and full rows, -1 beyond the counts."""
    counts = torch.randint(0, width + 1, (batch, rows), dtype=torch.int32)
    counts[:, 0] = 0
    neighbors = torch.randint(0, keys, (batch, rows, width), dtype=torch.int32)
    return neighbors.where(torch.arange(width) < counts[..., None], -1), counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "rows", "keys", "d", "width"), SIZES)
def test_cpu_equals_naive(
    batch: int, rows: int, keys: int, d: int, width: int, dtype: torch.dtype
) -> None:
    u = torch.randn(batch, rows, d, dtype=dtype, requires_grad=True)
    k = torch.randn(batch, keys, d, dtype=dtype, requires_grad=True)
    neighbors, counts = edges(batch, rows, keys, width)
    weight = torch.randn(batch, rows, width, dtype=dtype)
    results = []
    for backend in ("cpu", "naive"):
        scores = edge_scores(u, neighbors, counts, keys=k, backend=backend)
        results.append((scores, *torch.autograd.grad((scores * weight).sum(), (u, k))))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for cpu, naive in zip(*results, strict=True):
        torch.testing.assert_close(cpu, naive, rtol=tolerance, atol=tolerance)


def test_rows_that_look_at_themselves_get_both_gradients() -> None:
    u = torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True)
    neighbors, counts = edges(2, 11, 11, 4)
    assert torch.autograd.gradcheck(lambda x: edge_scores(x, neighbors, counts, backend="cpu"), u)


@pytest.mark.parametrize("d", [3, 12, 64])
def test_an_edge_keeps_the_bits_it_was_chosen_by(d: int) -> None:
    u = torch.randn(2, 80, d)
    indices, scores = causal_topk(u, 5, 2)
    counts = (indices >= 0).sum(-1, dtype=torch.int32)
    again = edge_scores(u, indices, counts)
    assert torch.equal(again, scores.masked_fill(indices < 0, 0.0))


def test_a_row_does_not_depend_on_the_batch_or_a_longer_buffer() -> None:
    u, buffer = torch.randn(3, 7, 12), torch.randn(3, 50, 12)
    neighbors, counts = edges(3, 7, 30, 6)
    together = edge_scores(u, neighbors, counts, keys=buffer[:, :30])
    for b in range(3):
        one = slice(b, b + 1)
        alone = edge_scores(u[one], neighbors[one], counts[one], keys=buffer[one, :30].clone())
        assert torch.equal(alone, together[one])


def test_low_precision_is_summed_in_float32() -> None:
    u = torch.randn(1, 9, 64).bfloat16().requires_grad_()
    neighbors, counts = edges(1, 9, 9, 4)
    scores = edge_scores(u, neighbors, counts)
    assert torch.equal(scores, edge_scores(u.float(), neighbors, counts))
    scores.sum().backward()
    assert u.grad is not None
    assert u.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_refuses_edges_that_point_nowhere(backend: str) -> None:
    u = torch.randn(1, 5, 3)
    full = torch.full((1, 5), 2, dtype=torch.int32)
    for bad in (-1, 5):
        neighbors = torch.zeros(1, 5, 2, dtype=torch.int32)
        neighbors[0, 3, 1] = bad
        with pytest.raises(InputError, match="valid neighbors in"):
            edge_scores(u, neighbors, full, backend=backend)
    for counts in (full + 1, full - 3):
        with pytest.raises(InputError, match="counts must lie"):
            edge_scores(u, torch.zeros(1, 5, 2, dtype=torch.int32), counts, backend=backend)


def test_refuses_wrong_shapes() -> None:
    u = torch.zeros(2, 6, 3)
    good = {"u": u, "neighbors": torch.zeros(2, 6, 4).int(), "counts": torch.zeros(2, 6).int()}
    wrong = [
        ("u must be", {"u": torch.zeros(6, 3)}),
        ("keys must be", {"keys": torch.zeros(2, 6, 4)}),
        ("neighbors must be", {"neighbors": torch.zeros(2, 5, 4).int()}),
        ("counts must be", {"counts": torch.zeros(2, 5).int()}),
        ("must be int32", {"counts": torch.zeros(2, 6).long()}),
    ]
    for message, change in wrong:
        with pytest.raises(InputError, match=message):
            edge_scores(**{**good, **change})


def test_opcheck_and_compile() -> None:
    from state_core.ops.edge_scores.cpu import edge_scores as op

    u = torch.randn(2, 9, 4, requires_grad=True)
    k = torch.randn(2, 12, 4, requires_grad=True)
    neighbors, counts = edges(2, 9, 12, 3)
    torch.library.opcheck(op, (u, neighbors, counts, k))
    compiled = torch.compile(
        lambda u, k: edge_scores(u, neighbors, counts, keys=k).square().sum(), backend="aot_eager"
    )
    expected = torch.autograd.grad(edge_scores(u, neighbors, counts, keys=k).square().sum(), (u, k))
    for got, want in zip(torch.autograd.grad(compiled(u, k), (u, k)), expected, strict=True):
        assert torch.equal(got, want)
