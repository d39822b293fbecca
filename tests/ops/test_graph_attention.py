"""Graph attention: the kernel against the plain reference, and both against dense attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from state_core.errors import InputError
from state_core.ops.graph_attention import cpu, graph_attention
from state_core.ops.reverse_edges import reverse_edges

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


def ragged_graph(batch: int, rows: int, sources: int, edges: int) -> tuple[torch.Tensor, ...]:
    counts = torch.randint(0, edges + 1, (batch, rows), dtype=torch.int32)
    counts[:, rows // 2] = 0
    neighbors = torch.randint(0, sources, (batch, rows, edges), dtype=torch.int32)
    neighbors[torch.arange(edges) >= counts[..., None]] = -1
    return neighbors, counts


def causal_graph(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    every = torch.arange(tokens, dtype=torch.int32).expand(1, tokens, tokens)
    counts = torch.arange(1, tokens + 1, dtype=torch.int32)[None]
    return torch.where(every < counts[..., None], every, -1), counts


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry if that is above 1."""
    if expected.numel() == 0:
        return 0.0
    got, expected = got.detach(), expected.detach()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def run(
    backend: str,
    inputs: list[torch.Tensor],
    graph: tuple[torch.Tensor, ...],
    weight: torch.Tensor,
    scale: float | None = None,
) -> list[torch.Tensor]:
    """The output and the gradient of each input, the bias last if there is one."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    bias = leaves[3] if len(leaves) > 3 else None
    out = graph_attention(*leaves[:3], *graph, bias, scale, backend=backend)
    (out * weight).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_backends_agree(
    inputs: list[torch.Tensor], graph: tuple[torch.Tensor, ...], scale: float | None = None
) -> None:
    q, v = inputs[0], inputs[2]
    weight = torch.randn(*q.shape[:3], v.shape[3], dtype=q.dtype)
    fast = run("cpu", inputs, graph, weight, scale)
    plain = run("naive", inputs, graph, weight, scale)
    assert len(fast) == len(plain) == 1 + len(inputs)
    for got, expected in zip(fast, plain, strict=True):
        assert torch.isfinite(got).all()
        assert relative_error(got, expected) < TOLERANCE[q.dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "sources", "edges", "width"),
    [
        (1, 1, 1, 16),
        (2, 2, 3, 20),
        (63, 63, 7, 60),
        (65, 65, 16, 64),
        (2, 63, 9, 48),
        (1, 65, 70, 32),
    ],
)
def test_kernel_equals_the_reference(
    rows: int, sources: int, edges: int, width: int, with_bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows * 100 + edges)
    shapes = [(2, 3, rows, width), (2, 3, sources, width), (2, 3, sources, width)]
    shapes += [(2, 3, rows, edges)] if with_bias else []
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    graph = ragged_graph(2, rows, sources, edges)
    graph[1][:, 0] = edges
    graph[0][:, 0] = torch.randint(0, sources, (edges,), dtype=torch.int32)
    assert_backends_agree(inputs, graph)


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(0, 30),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
def test_kernel_equals_the_reference_at_any_size(
    batch: int, heads: int, rows: int, more: int, edges: int, width: int, v_width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    shapes = [(rows, width), (rows + more, width), (rows + more, v_width), (rows, edges)]
    inputs = [torch.randn(batch, heads, *shape, dtype=torch.float64) for shape in shapes]
    graph = ragged_graph(batch, rows, rows + more, edges)
    graph[1][0, 0], graph[0][0, 0] = edges, 0  # the same neighbour many times over
    assert_backends_agree(inputs, graph, scale=0.7)


def test_groups_of_heads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 33, 16) for _ in range(3)]
    graph, weight = ragged_graph(2, 33, 33, 5), torch.randn(2, 3, 33, 16)
    together = run("cpu", inputs, graph, weight)
    for size in (0, 2 * 2 * 33 * 5 * 4):  # one head, then two, at a time
        monkeypatch.setattr(cpu, "SCRATCH_BYTES", size)
        for a, b in zip(together, run("cpu", inputs, graph, weight), strict=True):
            assert torch.equal(a, b)


def test_asking_for_rows_in_advance_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ragged_graph(2, 40, 50, 9)
    shapes = ((2, 3, 40, 20), (2, 3, 50, 20), (2, 3, 50, 36), (2, 3, 40, 9))
    inputs, weight = [torch.randn(shape) for shape in shapes], torch.randn(2, 3, 40, 36)
    near = run("cpu", inputs, graph, weight)
    monkeypatch.setattr(cpu, "FAR_BYTES", 0)
    for a, b in zip(near, run("cpu", inputs, graph, weight), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
@pytest.mark.parametrize("tokens", [1, 2, 65])
def test_all_causal_edges_are_dense_attention(tokens: int, backend: str) -> None:
    torch.manual_seed(tokens)
    inputs = [torch.randn(1, 2, tokens, 32, dtype=torch.float64) for _ in range(3)]
    weight = torch.randn_like(inputs[0])
    got = run(backend, inputs, causal_graph(tokens), weight)
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = F.scaled_dot_product_attention(*leaves, is_causal=True)
    (out * weight).sum().backward()
    for a, b in zip(got, [out.detach(), *(x.grad for x in leaves)], strict=True):
        assert b is not None
        assert relative_error(a, b) < 1e-13


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_empty_rows_give_zeros_and_take_no_gradient(backend: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 5, 16) for _ in range(3)] + [torch.randn(1, 2, 5, 3)]
    neighbors = torch.full((1, 5, 3), -1, dtype=torch.int32)
    counts = torch.zeros(1, 5, dtype=torch.int32)
    for tensor in run(backend, inputs, (neighbors, counts), torch.randn(1, 2, 5, 16)):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_entries_beyond_the_count_are_never_read(backend: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 9, 16) for _ in range(3)] + [torch.randn(2, 2, 9, 4)]
    neighbors, counts = ragged_graph(2, 9, 9, 4)
    weight = torch.randn(2, 2, 9, 16)
    clean = run(backend, inputs, (neighbors, counts), weight)
    beyond = torch.arange(4) >= counts[..., None]
    neighbors[beyond] = 2_000_000_000
    inputs[3][beyond[:, None].expand(-1, 2, -1, -1)] = float("nan")
    for a, b in zip(clean, run(backend, inputs, (neighbors, counts), weight), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("magnitude", [0.0, 40.0])
def test_large_scores_do_not_overflow(magnitude: float) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 33, 32) * magnitude for _ in range(2)] + [torch.randn(1, 2, 33, 32)]
    out = graph_attention(*inputs, *causal_graph(33))
    dense = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert relative_error(out, dense) < 1e-4


def test_an_edge_masked_by_an_infinite_bias_has_no_weight() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 8, 16) for _ in range(3))
    neighbors, counts = causal_graph(8)
    bias = torch.zeros(1, 1, 8, 8)
    bias[0, 0, 1:].diagonal(0)[:] = -torch.inf  # row i drops neighbour i - 1
    mask = torch.ones(8, 8, dtype=torch.bool).tril() & (bias[0, 0] == 0)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert relative_error(graph_attention(q, k, v, neighbors, counts, bias), dense) < 3e-6


def test_a_nan_reaches_the_output() -> None:
    q, k, v = (torch.randn(1, 2, 20, 32) for _ in range(3))
    k[0, 1, 3, 5] = torch.nan
    out = graph_attention(q, k, v, *causal_graph(20))
    assert torch.isnan(out[0, 1, 3:]).all()
    assert torch.isfinite(out[0, 0]).all()
    assert torch.isfinite(out[0, 1, :3]).all()


def layouts() -> list[tuple[str, list[torch.Tensor]]]:
    """The same numbers in several memory layouts."""
    torch.manual_seed(0)
    fused = torch.randn(2, 33, 3, 3, 20)  # [B, T, 3, H, D], as a fused projection gives them
    views = [fused[:, :, part].transpose(1, 2) for part in range(3)]
    return [
        ("heads outside", [x.contiguous() for x in views]),
        ("tokens outside", [x.transpose(1, 2).contiguous().transpose(1, 2) for x in views]),
        ("fused", views),
        ("width outside", [x.transpose(2, 3).contiguous().transpose(2, 3) for x in views]),
    ]


@pytest.mark.parametrize("copied", [False, True])
def test_memory_layout_changes_nothing(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SPREAD_BYTES", 0 if copied else 1 << 40)
    graph, weight = ragged_graph(2, 33, 33, 6), torch.randn(2, 3, 33, 20)
    results = []
    for _, inputs in layouts():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = graph_attention(*leaves, *graph)
        results.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_output_lies_as_the_queries_lie() -> None:
    graph = ragged_graph(2, 33, 33, 6)
    heads_outside, tokens_outside, fused = (inputs for _, inputs in layouts()[:3])
    assert graph_attention(*heads_outside, *graph).is_contiguous()
    assert graph_attention(*tokens_outside, *graph).transpose(1, 2).is_contiguous()
    assert graph_attention(*fused, *graph).transpose(1, 2).is_contiguous()


def test_keys_and_values_shared_by_heads_need_no_copy() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, 17, 16, dtype=torch.float64)
    k, v = (torch.randn(2, 1, 17, 16, dtype=torch.float64).expand(2, 4, 17, 16) for _ in range(2))
    assert_backends_agree([q, k, v], ragged_graph(2, 17, 17, 5))


def test_same_bits_twice_and_for_any_number_of_threads() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 130, 32) for _ in range(3)] + [torch.randn(2, 3, 130, 9)]
    graph, weight = ragged_graph(2, 130, 130, 9), torch.randn(2, 3, 130, 32)
    first = run("cpu", inputs, graph, weight)
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1):
            torch.set_num_threads(count)
            for a, b in zip(first, run("cpu", inputs, graph, weight), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_a_batch_row_alone_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 40, 20) for _ in range(3)]
    graph, weight = ragged_graph(3, 40, 40, 6), torch.randn(3, 2, 40, 20)
    together = run("cpu", inputs, graph, weight)
    alone = run("cpu", [x[1:2] for x in inputs], tuple(x[1:2] for x in graph), weight[1:2])
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:2], b)


def test_half_precision_is_computed_in_single() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 33, 32).bfloat16() for _ in range(3)]
    graph = ragged_graph(1, 33, 33, 6)
    bias = torch.randn(1, 2, 33, 6)
    out = graph_attention(*inputs, *graph, bias)
    exact = graph_attention(*(x.float() for x in inputs), *graph, bias)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())


def test_custom_op_is_registered_soundly() -> None:
    torch.manual_seed(0)
    graph = ragged_graph(2, 9, 11, 4)
    for bias in (None, torch.randn(2, 3, 9, 4, requires_grad=True)):
        for transposed in (False, True):
            shapes = [(2, 3, 9, 8), (2, 3, 11, 8), (2, 3, 11, 8)]
            tensors = [torch.randn(shape) for shape in shapes]
            if transposed:
                tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
            q, k, v = (x.requires_grad_() for x in tensors)
            torch.library.opcheck(cpu._forward, (q, k, v, *graph, bias, 0.5))
            out, lse = cpu._forward(q, k, v, *graph, bias, 0.5)
            rest = (q.detach(), k.detach(), v.detach(), *graph)
            inner = None if bias is None else bias.detach()
            arguments = (
                torch.randn_like(out),
                torch.randn_like(lse),
                *rest,
                inner,
                lse.detach(),
                0.5,
            )
            torch.library.opcheck(cpu._backward, arguments)


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(24, 72)

    def forward(
        self, x: torch.Tensor, neighbors: torch.Tensor, counts: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = self.qkv(x).view(2, -1, 3, 3, 8).permute(2, 0, 3, 1, 4)
        return graph_attention(q, k, v, neighbors, counts, bias).transpose(1, 2).reshape(x.shape)


def test_compiled_module_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    layer, x, bias = _Layer(), torch.randn(2, 17, 24), torch.randn(2, 3, 17, 5, requires_grad=True)
    graph = ragged_graph(2, 17, 17, 5)
    wanted = layer(x, *graph, bias)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, *graph, bias)
    assert torch.allclose(compiled, wanted, atol=1e-6)
    wanted_grad = torch.autograd.grad(wanted.square().sum(), [layer.qkv.weight, bias])
    compiled_grad = torch.autograd.grad(compiled.square().sum(), [layer.qkv.weight, bias])
    for a, b in zip(compiled_grad, wanted_grad, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.randn(2, 5, 8)}, r"expects q \[B,H,T,D\]"),
        ({"k": torch.randn(1, 2, 6, 9)}, r"k must be \[1, 2, 6, 8\]"),
        ({"v": torch.randn(1, 2, 7, 8)}, "v must be"),
        ({"q": torch.randn(1, 2, 5, 8).double()}, "one floating dtype"),
        ({"neighbors": torch.zeros(1, 5, 3, dtype=torch.int64)}, "must be int32"),
        ({"counts": torch.zeros(1, 4, dtype=torch.int32)}, r"counts must be \[1, 5\]"),
        ({"bias": torch.randn(1, 1, 5, 3)}, r"bias must be \[1, 2, 5, 3\]"),
        ({"neighbors": torch.full((1, 5, 3), 6, dtype=torch.int32)}, "neighbors within 0 … 5"),
        ({"neighbors": torch.full((1, 5, 3), -1, dtype=torch.int32)}, "neighbors within 0 … 5"),
        ({"counts": torch.full((1, 5), 4, dtype=torch.int32)}, "counts must be within 0 … 3"),
        ({"counts": torch.full((1, 5), -1, dtype=torch.int32)}, "counts must be within 0 … 3"),
    ],
)
def test_bad_input_is_refused(change: dict[str, torch.Tensor], message: str, backend: str) -> None:
    inputs: dict[str, torch.Tensor] = {
        "q": torch.randn(1, 2, 5, 8),
        "k": torch.randn(1, 2, 6, 8),
        "v": torch.randn(1, 2, 6, 8),
        "neighbors": torch.zeros(1, 5, 3, dtype=torch.int32),
        "counts": torch.ones(1, 5, dtype=torch.int32),
        "bias": torch.randn(1, 2, 5, 3),
    }
    with pytest.raises(InputError, match=message):
        graph_attention(**(inputs | change), backend=backend)


def test_no_rows_is_no_error() -> None:
    empty = torch.zeros(1, 0, 3, dtype=torch.int32), torch.zeros(1, 0, dtype=torch.int32)
    out = graph_attention(torch.randn(1, 2, 0, 8), *torch.randn(2, 1, 2, 4, 8).unbind(0), *empty)
    assert out.shape == (1, 2, 0, 8)


def test_reversed_edges_list_every_edge_once() -> None:
    torch.manual_seed(0)
    neighbors, counts = ragged_graph(2, 33, 20, 6)
    starts, edges = reverse_edges(neighbors, counts, 20)
    for b in range(2):
        flat = neighbors[b].flatten()
        for j in range(20):
            found = edges[b, starts[b, j] : starts[b, j + 1]]
            assert torch.equal(found.long(), (flat == j).nonzero()[:, 0])


def test_reversed_edges_are_built_once_and_again_after_a_change() -> None:
    neighbors, counts = ragged_graph(1, 9, 9, 3)
    first = reverse_edges(neighbors, counts, 9)
    assert reverse_edges(neighbors, counts, 9) is first
    assert reverse_edges(neighbors, counts, 10) is not first
    counts[0, 0], neighbors[0, 0, 0] = 1, 8
    changed = reverse_edges(neighbors, counts, 9)
    assert 0 in changed.edges[0, changed.starts[0, 8] : changed.starts[0, 9]]
    assert reverse_edges(neighbors, counts.clone(), 9) is not changed


def test_reversing_refuses_what_points_nowhere() -> None:
    counts = torch.ones(1, 2, dtype=torch.int32)
    with pytest.raises(InputError, match="neighbors within 0 … 3"):
        reverse_edges(torch.full((1, 2, 1), 4, dtype=torch.int32), counts, 4)
