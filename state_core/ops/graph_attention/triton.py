"""Graph attention on a GPU: two ways, chosen by the graph, behind torch custom ops.

A row whose edges are scattered is gathered (`triton_gather.py`). Where the rows of a block share
their keys, whole tiles on the matrix unit are cheaper, though most of a tile is struck out
(`triton_blocks.py`): on paper, a tile of 64 x 32 costs as much as some 60 gathered edges, so tiles
it is where they hold 64 on average, an edge a row. Gathered are as well: fewer rows than a tile has
(decoding), fp32 (its exact products are none of the matrix unit's), and a graph where a row has
the same neighbour twice, which a tile cannot tell.

Shapes: B batch, H heads, T query tokens, S key tokens, D and M head widths, E edges of a row.
"""

from __future__ import annotations

from typing import Any

import torch

from state_core.errors import BackendError
from state_core.ops.graph_attention import triton_blocks, triton_gather
from state_core.ops.graph_attention.buffers import gradients, outputs
from state_core.ops.graph_attention.tile_list import ROWS, TileList, tile_list
from state_core.ops.graph_memo import check_edges
from state_core.ops.specimen import Specimen

WIDEST = 128  # heads wider than this do not fit the registers of a block


def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `state_core.ops.graph_attention`; always with the log-sum-exp. fp32, bf16 or fp16."""
    if q.dtype == torch.float64:
        raise BackendError("graph_attention: 'triton' has no float64; 'cpu' and 'naive' have")
    return _forward(q, k, v, neighbors, counts, bias, scale, "auto")


def _tiles(
    q: torch.Tensor, v: torch.Tensor, neighbors: torch.Tensor, counts: torch.Tensor, way: str
) -> TileList | None:
    """The tiles to walk, or None to gather. `way` is "gather", "blocks" or "auto"."""
    sources = v.shape[2]
    check_edges(neighbors, counts, sources)
    if way == "blocks":
        return tile_list(neighbors, counts, sources)
    fits = q.dtype != torch.float32 and max(q.shape[3], v.shape[3]) <= WIDEST
    if way == "gather" or not fits or q.shape[2] < ROWS:
        return None
    tiles = tile_list(neighbors, counts, sources)
    return tiles if tiles and tiles.edges_per_tile >= ROWS else None


@torch.library.custom_op("state_core::graph_attention_triton", mutates_args=())
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    way: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    tiles = _tiles(q, v, neighbors, counts, way)
    with torch.cuda.device_of(q):
        if tiles:
            return triton_blocks.forward(q, k, v, tiles, bias, scale)
        return triton_gather.forward(q, k, v, neighbors, counts, bias, scale)


@_forward.register_fake
def _forward_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    way: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs(q, v)


@torch.library.custom_op("state_core::graph_attention_triton_backward", mutates_args=())
def _backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    way: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    tiles = _tiles(q, v, neighbors, counts, way)
    d_lse = None if d_lse is None else d_lse.contiguous()
    with torch.cuda.device_of(q):
        if tiles:
            return triton_blocks.backward(d_out, d_lse, q, k, v, tiles, bias, out, lse, scale)
        return triton_gather.backward(
            d_out, d_lse, q, k, v, neighbors, counts, bias, out, lse, scale
        )


@_backward.register_fake
def _backward_fake(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    way: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return gradients(q, k, v, bias)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, neighbors, counts, bias, ctx.scale, ctx.way = inputs
    ctx.save_for_backward(q, k, v, neighbors, counts, bias, *output)
    ctx.set_materialize_grads(False)  # most callers leave the log-sum-exp alone


def _differentiate(ctx: Any, d_out: torch.Tensor | None, d_lse: torch.Tensor | None) -> Any:
    *inputs, bias, out, lse = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    dq, dk, dv, d_bias = _backward(d_out, d_lse, *inputs, bias, out, lse, ctx.scale, ctx.way)
    return dq, dk, dv, None, None, None if bias is None else d_bias, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _specimens() -> tuple[Specimen, ...]:
    """Every kernel in bf16 at head width 64, bias and its gradient in fp32."""
    types = dict.fromkeys(("q", "k", "v", "g", "out", "dq", "dk", "dv"), "*bf16")
    types |= dict.fromkeys(("bias", "d_bias", "lse", "d_lse", "delta"), "*fp32")
    types |= dict.fromkeys(("neighbors", "counts", "starts", "reversed_edges"), "*i32")
    types |= dict.fromkeys(TileList._fields, "*i32")
    types |= dict.fromkeys(("H", "T", "S", "E", "R", "C"), "i32")
    types |= dict.fromkeys((f"bias_{axis}" for axis in "bhte"), "i32") | {"scale": "fp32"}
    q = torch.empty(1, 1, 1, 64, device="meta")
    flags = {"HAS_BIAS": True, "HAS_D_LSE": True}

    def specimen(way: Any, name: str, constants: dict[str, Any], **options: Any) -> Specimen:
        kernel = getattr(way, name)
        names = [argument for argument in kernel.arg_names if argument in constants]
        strides = dict.fromkeys(
            (n for n in kernel.arg_names if n[-2:] in ("_b", "_h", "_t")), "i32:16"
        )
        kinds = strides | types | dict.fromkeys(names, "constexpr")
        return Specimen(
            f"{way.__name__.rpartition('_')[2]} {name.removesuffix('_kernel')}",
            kernel,
            {argument: kinds[argument] for argument in kernel.arg_names},
            {argument: constants[argument] for argument in names},
            **options,
        )

    gather, blocks = (
        triton_gather.block_sizes(q, q) | flags,
        triton_blocks.block_sizes(q, q) | flags,
    )
    kernels = ("forward_kernel", "rows_kernel", "keys_kernel")
    return (
        *(specimen(triton_gather, n, gather, warps=triton_gather.WARPS) for n in kernels),
        *(
            specimen(
                triton_blocks,
                n,
                blocks,
                matrix_unit=True,
                warps=triton_blocks.WARPS,
                stages=triton_blocks.STAGES,
            )
            for n in kernels
        ),
    )


SPECIMENS = _specimens()
