"""Scores of given edges: backends and gradients, the bits of causal_topk, compile, bad input."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops import causal_topk, edge_scores

Place = tuple[str, torch.device]
SIZES = [  # batch, rows, keys, features, edges of a row, blocks
    (2, 1, 1, 3, 1, None),
    (1, 2, 9, 12, 4, 3),
    (2, 63, 63, 4, 9, None),
    (1, 65, 70, 33, 40, 11),
    (1, 300, 2, 6, 3, 1),
    (1, 4, 4, 3, 0, 3),
]


def edges(batch: int, rows: int, keys: int, width: int) -> tuple[Tensor, Tensor]:
    """A table with empty and full rows, -1 beyond the counts."""
    counts = torch.randint(0, width + 1, (batch, rows), dtype=torch.int32)
    counts[:, 0] = 0
    neighbors = torch.randint(0, keys, (batch, rows, width), dtype=torch.int32)
    return neighbors.where(torch.arange(width) < counts[..., None], -1), counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "rows", "keys", "d", "width", "blocks"), SIZES)
def test_equals_naive(
    place: Place,
    batch: int,
    rows: int,
    keys: int,
    d: int,
    width: int,
    blocks: int | None,
    dtype: torch.dtype,
) -> None:
    backend, device = place
    u = torch.randn(batch, rows, d, dtype=dtype).to(device).requires_grad_()
    k = torch.randn(batch, keys, d, dtype=dtype).to(device).requires_grad_()
    neighbors, counts = (x.to(device) for x in edges(batch, rows, keys, width))
    results = []
    for name in (backend, "naive"):
        scores = edge_scores(u, neighbors, counts, keys=k, blocks=blocks, backend=name)
        torch.manual_seed(1)
        weight = torch.randn(scores.shape, dtype=dtype).to(device)
        results.append((scores, *torch.autograd.grad((scores * weight).sum(), (u, k))))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for ours, naive in zip(*results, strict=True):
        torch.testing.assert_close(ours, naive, rtol=tolerance, atol=tolerance)


def test_rows_that_look_at_themselves_get_both_gradients(place: Place) -> None:
    backend, device = place
    u = torch.randn(1, 5, 3, dtype=torch.float64, device=device, requires_grad=True)
    neighbors, counts = (x.to(device) for x in edges(1, 5, 5, 4))
    assert torch.autograd.gradcheck(
        lambda x: edge_scores(x, neighbors, counts, backend=backend), u, fast_mode=True
    )


def test_terms_of_the_blocks_add_up_to_the_score(place: Place) -> None:
    backend, device = place
    u = torch.randn(2, 40, 12).to(device)
    neighbors, counts = (x.to(device) for x in edges(2, 40, 40, 6))
    scores = edge_scores(u, neighbors, counts, backend=backend)
    terms = edge_scores(u, neighbors, counts, blocks=3, backend=backend)
    torch.testing.assert_close(terms.sum(-1), scores, rtol=0, atol=2e-6)
    alone = edge_scores(u[..., 4:8].contiguous(), neighbors, counts, backend=backend)
    assert torch.equal(terms[..., 1], alone)


def test_a_hub_gets_the_gradient_of_all_its_pieces(triton_device: torch.device) -> None:
    rows = 600  # more edges at one key than a piece holds
    u = torch.randn(1, rows, 4, device=triton_device)
    keys = torch.zeros(1, 3, 4, device=triton_device, requires_grad=True)
    neighbors = torch.ones(1, rows, 1, dtype=torch.int32, device=triton_device)
    scores = edge_scores(u, neighbors, neighbors[..., 0], keys=keys, backend="triton")
    scores.sum().backward()
    expected = torch.stack([torch.zeros(4), u[0].sum(0).cpu(), torch.zeros(4)])
    torch.testing.assert_close(keys.grad[0].cpu(), expected)


@pytest.mark.parametrize("d", [3, 12, 33])
def test_an_edge_keeps_the_bits_it_was_chosen_by(place: Place, d: int) -> None:
    backend, device = place
    u = torch.randn(2, 80, d).to(device)
    indices, scores = causal_topk(u, 5, 2, backend=backend)
    counts = (indices >= 0).sum(-1, dtype=torch.int32)
    again = edge_scores(u, indices, counts, backend=backend)
    assert torch.equal(again, scores.masked_fill(indices < 0, 0.0))


def test_a_row_does_not_depend_on_the_batch_or_a_longer_buffer(place: Place) -> None:
    backend, device = place
    u, buffer = torch.randn(3, 7, 12).to(device), torch.randn(3, 50, 12).to(device)
    buffer[:, 30:] = torch.nan
    neighbors, counts = (x.to(device) for x in edges(3, 7, 30, 6))
    together = edge_scores(u, neighbors, counts, keys=buffer[:, :30], backend=backend)
    for b in range(3):
        one = slice(b, b + 1)
        own = buffer[one, :30].clone()
        alone = edge_scores(u[one], neighbors[one], counts[one], keys=own, backend=backend)
        assert torch.equal(alone, together[one])


def test_low_precision_is_summed_in_float32() -> None:
    u = torch.randn(1, 9, 64).bfloat16().requires_grad_()
    neighbors, counts = edges(1, 9, 9, 4)
    scores = edge_scores(u, neighbors, counts)
    assert torch.equal(scores, edge_scores(u.float(), neighbors, counts))
    scores.sum().backward()
    assert u.grad is not None
    assert u.grad.dtype == torch.bfloat16


def test_refuses_edges_that_point_nowhere(place: Place) -> None:
    backend, device = place
    u = torch.randn(1, 5, 3, device=device)
    neighbors = torch.zeros(1, 5, 2, dtype=torch.int32, device=device)
    full = torch.full((1, 5), 2, dtype=torch.int32, device=device)
    wrong = [(neighbors, counts) for counts in (full + 1, full - 3)]
    for bad in (-1, 5):
        outside = neighbors.clone()
        outside[0, 3, 1] = bad
        wrong.append((outside, full))
    for name in (backend, "naive"):
        for table, counts in wrong:
            with pytest.raises(InputError, match="within 0 … 2, neighbors within 0 … 4"):
                edge_scores(u, table, counts, backend=name)


def test_refuses_wrong_shapes() -> None:
    u = torch.zeros(2, 6, 3)
    good = {"u": u, "neighbors": torch.zeros(2, 6, 4).int(), "counts": torch.zeros(2, 6).int()}
    wrong = [
        ("u must be", {"u": torch.zeros(6, 3)}),
        ("keys must be", {"keys": torch.zeros(2, 6, 4)}),
        ("neighbors must be", {"neighbors": torch.zeros(2, 5, 4).int()}),
        ("counts must be", {"counts": torch.zeros(2, 5).int()}),
        ("must be int32", {"counts": torch.zeros(2, 6).long()}),
        ("3 features are not 2 equal blocks", {"blocks": 2}),
    ]
    for message, change in wrong:
        with pytest.raises(InputError, match=message):
            edge_scores(**{**good, **change})


def test_opcheck_and_compile(place: Place) -> None:
    backend, device = place
    op = import_module(f"state_core.ops.edge_scores.{backend}").edge_scores
    u = torch.randn(2, 9, 4, device=device, requires_grad=True)
    k = torch.randn(2, 12, 4, device=device, requires_grad=True)
    neighbors, counts = (x.to(device) for x in edges(2, 9, 12, 3))
    torch.library.opcheck(op, (u, neighbors, counts, k, 2))

    def loss(u: Tensor, k: Tensor) -> Tensor:
        return edge_scores(u, neighbors, counts, keys=k, backend=backend).square().sum()

    compiled = torch.compile(loss, backend="aot_eager")
    expected = torch.autograd.grad(loss(u, k), (u, k))
    for got, want in zip(torch.autograd.grad(compiled(u, k), (u, k)), expected, strict=True):
        assert torch.equal(got, want)
