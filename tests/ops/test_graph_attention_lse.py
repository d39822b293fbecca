"""The log-sum-exp of graph attention: what merges attention over one source with another's."""

from __future__ import annotations

import pytest
import torch

from state_core.ops.graph_attention import graph_attention
from tests.ops.test_graph_attention import ragged_graph, relative_error

BACKENDS = ["cpu", "naive"]


def leaves(batch: int, heads: int, rows: int, sources: int, edges: int) -> list[torch.Tensor]:
    shapes = [(rows, 16), (sources, 16), (sources, 12), (rows, edges)]
    return [
        torch.randn(batch, heads, *shape, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_lse_is_that_of_the_scores(backend: str) -> None:
    q, k, v, bias = leaves(2, 3, 9, 11, 5)
    neighbors, counts = ragged_graph(2, 9, 11, 5)
    _, lse = graph_attention(
        q, k, v, neighbors, counts, bias, 0.3, return_lse=True, backend=backend
    )
    for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(9)).tolist():
        n = int(counts[b, i])
        scores = 0.3 * k[b, h, neighbors[b, i, :n].long()] @ q[b, h, i] + bias[b, h, i, :n]
        assert torch.allclose(lse[b, h, i], scores.logsumexp(0), rtol=0, atol=1e-12)
        assert (lse[b, h, i] == -torch.inf) == (n == 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_merging_two_halves_of_the_edges_is_attention_over_all(backend: str) -> None:
    inputs = leaves(2, 3, 9, 11, 6)
    q, k, v, bias = inputs
    neighbors = torch.randint(0, 11, (2, 9, 6), dtype=torch.int32)
    weight = torch.randn(2, 3, 9, 12, dtype=torch.float64)

    def half(first: int, last: int, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        part = neighbors[..., first:last].contiguous(), counts
        return graph_attention(
            q, k, v, *part, bias[..., first:last], return_lse=True, backend=backend
        )

    late = torch.full((2, 9), 4, dtype=torch.int32)
    late[:, 3] = 0  # a row whose second half is empty
    (out_a, lse_a), (out_b, lse_b) = half(0, 2, torch.full_like(late, 2)), half(2, 6, late)
    share = torch.sigmoid(lse_a - lse_b)[..., None]
    merged = share * out_a + (1 - share) * out_b
    whole = graph_attention(q, k, v, neighbors, 2 + late, bias, backend="naive")
    assert relative_error(merged, whole) < 1e-13
    got = torch.autograd.grad((merged * weight).sum(), inputs)
    expected = torch.autograd.grad((whole * weight).sum(), inputs)
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) < 1e-13


@pytest.mark.parametrize("with_out", [False, True])
def test_gradients_through_lse_are_the_reference_ones(with_out: bool) -> None:
    inputs = leaves(2, 3, 9, 11, 5)
    graph = ragged_graph(2, 9, 11, 5)
    weight = torch.randn(2, 3, 9, dtype=torch.float64)
    both = []
    for backend in ("cpu", "naive"):
        out, lse = graph_attention(*inputs[:3], *graph, inputs[3], return_lse=True, backend=backend)
        loss = (lse.masked_fill(graph[1][:, None] == 0, 0.0) * weight).sum()
        loss = loss + out.square().sum() if with_out else loss
        both.append(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    for a, b in zip(*both, strict=True):
        assert relative_error(a, b) < 1e-13


@pytest.mark.parametrize("backend", BACKENDS)
def test_lse_of_half_precision_is_single(backend: str) -> None:
    inputs = [torch.randn(1, 2, 7, 16).bfloat16() for _ in range(3)]
    graph = ragged_graph(1, 7, 7, 4)
    out, lse = graph_attention(*inputs, *graph, return_lse=True, backend=backend)
    _, exact = graph_attention(*(x.float() for x in inputs), *graph, return_lse=True)
    assert out.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    assert torch.allclose(lse, exact, atol=1e-5)
