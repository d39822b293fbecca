"""The Triton kernels of graph attention, gathering and by tiles, against the plain reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is for Linux")

from state_core.errors import BackendError, InputError
from state_core.ops.graph_attention import graph_attention, naive, triton
from state_core.ops.graph_attention.tile_list import COLUMNS, ROWS, tile_list
from tests.ops.test_graph_attention import causal_graph, ragged_graph, relative_error

WAYS = ["gather", "blocks"]
TOLERANCE = 3e-6
Graph = tuple[torch.Tensor, torch.Tensor]


def simple_graph(batch: int, rows: int, sources: int, edges: int) -> Graph:
    """Rows of different neighbours in any order; the first row is full and the middle one empty."""
    counts = torch.randint(0, edges + 1, (batch, rows), dtype=torch.int32)
    counts[:, rows // 2], counts[:, 0] = 0, edges
    neighbors = torch.rand(batch, rows, sources).argsort(-1)[..., :edges].int()
    neighbors[torch.arange(edges) >= counts[..., None]] = -1
    return neighbors, counts


def random_inputs(
    graph: Graph, sources: int, width: int, v_width: int, with_bias: bool, heads: int = 2
) -> list[torch.Tensor]:
    batch, rows, edges = graph[0].shape
    shapes = [(rows, width), (sources, width), (sources, v_width)]
    shapes += [(rows, edges)] if with_bias else []
    return [torch.randn(batch, heads, *shape) for shape in shapes]


def run(
    way: str, inputs: list[torch.Tensor], graph: Graph, device: torch.device
) -> list[torch.Tensor]:
    """out, lse and every gradient through both; `way` is one of Triton's two, or "naive"."""
    leaves = [x.detach().to(device).requires_grad_() for x in inputs]
    neighbors, counts = (x.to(device) for x in graph)
    bias = leaves[3] if len(leaves) > 3 else None
    if way == "naive":
        out, lse = naive.graph_attention(*leaves[:3], neighbors, counts, bias, 0.3)
    else:
        out, lse = triton._forward(*leaves[:3], neighbors, counts, bias, 0.3, way)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(device) for x in (out, lse)]
    finite = lse.masked_fill(counts[:, None] == 0, 0.0)
    loss = (out * weights[0]).sum() + (finite * weights[1]).sum()
    return [out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves)]


def assert_equal_to_the_reference(
    way: str, inputs: list[torch.Tensor], graph: Graph, device: torch.device
) -> None:
    got, expected = run(way, inputs, graph, device), run("naive", inputs, graph, device)
    assert torch.equal(got[1] == -torch.inf, expected[1] == -torch.inf)
    for a, b in zip(got, expected, strict=True):
        a, b = a.masked_fill(a == -torch.inf, 0.0), b.masked_fill(b == -torch.inf, 0.0)
        assert torch.isfinite(a).all()
        assert relative_error(a, b) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "sources", "edges", "width", "v_width"),
    [
        (1, 1, 1, 16, 16),
        (2, 2, 2, 20, 12),  # widths that are no powers of two
        (63, 63, 5, 16, 16),
        (2, 65, 40, 24, 24),  # decoding: more keys than rows
        (1, 130, 70, 16, 40),
    ],
)
def test_triton_equals_the_reference(
    rows: int,
    sources: int,
    edges: int,
    width: int,
    v_width: int,
    with_bias: bool,
    way: str,
    triton_device: torch.device,
) -> None:
    graph = simple_graph(1, rows, sources, edges)
    inputs = random_inputs(graph, sources, width, v_width, with_bias)
    assert_equal_to_the_reference(way, inputs, graph, triton_device)


@pytest.mark.parametrize("way", WAYS)
def test_batches_heads_and_borders_of_tiles(way: str, triton_device: torch.device) -> None:
    graph = simple_graph(2, ROWS + 1, 2 * COLUMNS + 6, 7)
    inputs = random_inputs(graph, 2 * COLUMNS + 6, 16, 16, with_bias=True, heads=2)
    assert_equal_to_the_reference(way, inputs, graph, triton_device)


@pytest.mark.parametrize("way", WAYS)
def test_rows_with_a_neighbour_twice(way: str, triton_device: torch.device) -> None:
    graph = ragged_graph(2, 9, 4, 8)
    assert tile_list(*graph, 4) is None
    inputs = random_inputs(graph, 4, 16, 16, with_bias=True)
    assert_equal_to_the_reference(way, inputs, graph, triton_device)


@pytest.mark.parametrize("way", WAYS)
def test_all_causal_edges_are_dense_attention(way: str, triton_device: torch.device) -> None:
    q, k, v = (torch.randn(1, 2, 65, 16, device=triton_device) for _ in range(3))
    graph = (x.to(triton_device) for x in causal_graph(65))
    out, _ = triton._forward(q, k, v, *graph, None, 0.25, way)
    assert relative_error(out, F.scaled_dot_product_attention(q, k, v, is_causal=True)) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_entries_beyond_the_count_are_never_read(way: str, triton_device: torch.device) -> None:
    graph = simple_graph(2, 9, 9, 4)
    inputs = random_inputs(graph, 9, 16, 16, with_bias=True)
    clean = run(way, inputs, graph, triton_device)
    beyond = torch.arange(4) >= graph[1][..., None]
    graph[0][beyond] = 2_000_000_000
    inputs[3][beyond[:, None].expand(-1, 2, -1, -1)] = torch.nan
    for a, b in zip(clean, run(way, inputs, graph, triton_device), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("way", WAYS)
def test_an_edge_masked_by_an_infinite_bias_has_no_weight(
    way: str, triton_device: torch.device
) -> None:
    neighbors, counts = (x.to(triton_device) for x in causal_graph(40))
    q, k, v = (torch.randn(1, 1, 40, 16, device=triton_device) for _ in range(3))
    bias = torch.zeros(1, 1, 40, 40, device=triton_device)
    bias[..., :34] = -torch.inf  # the first tile of each row holds nothing; rows below 34 are bare
    out, lse = triton._forward(q, k, v, neighbors, counts, bias, 0.25, way)
    mask = torch.ones(40, 40, dtype=torch.bool, device=triton_device).tril() & (bias[0, 0] == 0)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert relative_error(out[:, :, 34:], dense[:, :, 34:]) < TOLERANCE
    assert torch.equal(out[:, :, :34], torch.zeros_like(out[:, :, :34]))
    assert (lse[:, :, :34] == -torch.inf).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_nan_reaches_those_who_look_at_it(way: str, triton_device: torch.device) -> None:
    q, k, v = (torch.randn(1, 2, 20, 16, device=triton_device) for _ in range(3))
    k[0, 1, 3, 5] = torch.nan
    out, _ = triton._forward(
        q, k, v, *(x.to(triton_device) for x in causal_graph(20)), None, 1, way
    )
    assert torch.isnan(out[0, 1, 3:]).all()
    assert torch.isfinite(out[0, 0]).all()
    assert torch.isfinite(out[0, 1, :3]).all()


@pytest.mark.parametrize("way", WAYS)
def test_memory_layout_changes_nothing(way: str, triton_device: torch.device) -> None:
    graph = simple_graph(1, 9, 9, 4)
    fused = torch.randn(1, 9, 3, 2, 16)
    views = [fused[:, :, part].transpose(1, 2) for part in range(3)]
    bias = torch.randn(1, 9, 4, 2).permute(0, 3, 1, 2)
    turned = [x.mT.contiguous().mT for x in views]
    results = [
        run(way, inputs, graph, triton_device)
        for inputs in ([*views, bias], [x.contiguous() for x in (*views, bias)], [*turned, bias])
    ]
    assert results[0][0].transpose(1, 2).is_contiguous()
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_keeps_its_dtype(way: str, triton_device: torch.device) -> None:
    graph = simple_graph(1, 9, 12, 4)
    neighbors, counts = (x.to(triton_device) for x in graph)
    inputs = random_inputs(graph, 12, 16, 16, with_bias=True)
    q, k, v = (x.half().to(triton_device).requires_grad_() for x in inputs[:3])
    bias = inputs[3].to(triton_device).requires_grad_()
    out, lse = triton._forward(q, k, v, neighbors, counts, bias, 0.3, way)
    exact, _ = naive.graph_attention(q, k, v, neighbors, counts, bias, 0.3)
    assert (out.dtype, lse.dtype) == (torch.float16, torch.float32)
    assert relative_error(out.float(), exact.float()) < 2e-3
    grads = [torch.autograd.grad(x.float().square().sum(), [q, k, v, bias]) for x in (out, exact)]
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a.float(), b.float()) < 1e-2


def test_a_tile_list_holds_every_edge_once() -> None:
    neighbors, counts = simple_graph(2, ROWS + 3, 70, 9)
    tiles = tile_list(neighbors, counts, 70)
    assert tiles is not None
    row_blocks, found = 2, []
    for line in range(2 * row_blocks):
        b, block = divmod(line, row_blocks)
        for tile in range(int(tiles.row_starts[line]), int(tiles.row_starts[line + 1])):
            assert (tiles.words[tile] != 0).any()
            for r, word in enumerate(tiles.words[tile].tolist()):
                columns = [c for c in range(COLUMNS) if word >> c & 1]
                for number, c in enumerate(columns, int(tiles.firsts[tile, r])):
                    i, j = block * ROWS + r, int(tiles.key_blocks[tile]) * COLUMNS + c
                    assert neighbors[b, i, tiles.slots[b, i, number]] == j
                    found.append((b, i, j))
    assert len(found) == len(set(found)) == tiles.edges == int(counts.sum())
    assert tiles.by_key.sort().values.tolist() == list(range(len(tiles.key_blocks)))
    for n, tile in enumerate(tiles.by_key.tolist()):
        b = int(torch.searchsorted(tiles.row_starts, tile, right=True) - 1) // row_blocks
        line = b * 3 + int(tiles.key_blocks[tile])
        assert tiles.key_starts[line] <= n < tiles.key_starts[line + 1]


def test_the_graph_chooses_the_way() -> None:
    def blocks(rows: int, dtype: torch.dtype, graph: Graph) -> bool:
        q = torch.randn(1, 1, rows, 16).to(dtype)
        return triton._tiles(q, q, *graph, "auto") is not None

    dense, scattered = causal_graph(2 * ROWS), simple_graph(1, 2 * ROWS, 2 * ROWS, 2)
    assert blocks(2 * ROWS, torch.bfloat16, dense)
    assert not blocks(2 * ROWS, torch.bfloat16, scattered)
    assert not blocks(2 * ROWS, torch.float32, dense)
    assert not blocks(ROWS - 1, torch.bfloat16, causal_graph(ROWS - 1))


@pytest.mark.parametrize("way", WAYS)
def test_custom_op_is_registered_soundly(way: str, triton_device: torch.device) -> None:
    graph = tuple(x.to(triton_device) for x in simple_graph(1, 3, 5, 2))
    shapes = [(1, 2, 3, 16), (1, 2, 5, 16), (1, 2, 5, 16), (1, 2, 3, 2)]
    q, k, v, bias = (torch.randn(s, device=triton_device, requires_grad=True) for s in shapes)
    for some in (None, bias):
        torch.library.opcheck(triton._forward, (q, k, v, *graph, some, 0.5, way))
        out, lse = (x.detach() for x in triton._forward(q, k, v, *graph, some, 0.5, way))
        rest = (q.detach(), k.detach(), v.detach(), *graph, None if some is None else some.detach())
        for d_lse in (None, torch.randn_like(lse)):
            arguments = (torch.randn_like(out), d_lse, *rest, out, lse, 0.5, way)
            torch.library.opcheck(triton._backward, arguments)


def test_the_public_op_reaches_triton(triton_device: torch.device) -> None:
    graph = tuple(x.to(triton_device) for x in simple_graph(1, 3, 5, 2))
    q, k, v = (torch.randn(1, 2, n, 16, device=triton_device) for n in (3, 5, 5))
    pair = graph_attention(q, k, v, *graph, return_lse=True, backend="triton")
    plain = graph_attention(q, k, v, *graph, return_lse=True, backend="naive")
    for a, b in zip(pair, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(BackendError, match="no float64"):
        graph_attention(q.double(), k.double(), v.double(), *graph, backend="triton")
    graph[0][0, 0, 0] = 5
    with pytest.raises(InputError, match="neighbors within 0 … 4"):
        graph_attention(q, k, v, *graph, backend="triton")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_at_all_is_no_error(way: str, triton_device: torch.device) -> None:
    for rows, edges in ((0, 3), (2, 0)):
        graph = simple_graph(1, 2, 4, edges)
        graph = graph[0][:, :rows], graph[1][:, :rows]
        inputs = random_inputs(graph, 4, 16, 16, with_bias=True)
        out, _, *gradients = run(way, inputs, graph, triton_device)
        assert out.shape == (1, 2, rows, 16)
        assert all((x == 0).all() for x in gradients)
