r"""Attention over the edges of a graph: each token reads its own few neighbours.

    s_ie = scale · q_i · k_j + bias_ie,   j = neighbors[i, e],   e < counts[i]
    p_i  = softmax(s_i)  over the row's edges only
    o_i  = Σ_e p_ie v_j                   (a row without edges gives zeros)
    lse_i = log Σ_e exp(s_ie)             (−∞ for a row without edges)

With every causal edge present this is `F.scaled_dot_product_attention(is_causal=True)`; with E
edges a row it costs O(T·E·D), where dense attention costs O(T²·D).

Shapes: B batch, T query tokens, S key tokens (S > T when decoding with a cache), H heads,
D head width of q and k, M head width of v (usually D), E most edges of a row.
"""

from __future__ import annotations

from typing import Literal, overload

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "graph_attention",
    {
        "cpu": Backend("state_core.ops.graph_attention.cpu", ("cpu",), ("numba",)),
        "triton": Backend("state_core.ops.graph_attention.triton", ("cuda",), ("triton",)),
        "naive": Backend("state_core.ops.graph_attention.naive"),
    },
)


@overload
def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    *,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> torch.Tensor: ...


@overload
def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    *,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]: ...


def graph_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    *,
    return_lse: bool = False,
    backend: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of every token over its neighbours in a graph.

    q:          [B, H, T, D] queries, one per row of the graph.
    k, v:       [B, H, S, D] and [B, H, S, M], what the edges point at.
    neighbors:  [B, T, E] int32 in 0 … S - 1. Entries from counts[b, i] on are never read.
    counts:     [B, T] int32, how many edges a row has.
    bias:       [B, H, T, E], added to the scores; its entries from counts[b, i] on are ignored.
    scale:      of q·k, by default 1/√D.
    return_lse: also return lse [B, H, T] in fp32 (fp64 for fp64 inputs). Attention a over one set
                of edges and b over another are attention over both with
                w = sigmoid(lse_a - lse_b): out = w out_a + (1 - w) out_b.
    backend:    "auto", "cpu", "triton" (not in fp64) or "naive".

    Returns [B, H, T, M] in q's dtype and memory order: tokens outside heads if q lies that way.
    Differentiable (once) in q, k, v and bias, through lse as well. bf16 and fp16 are summed in
    fp32. A permutation of the heads in memory costs nothing: pass views, the last axis contiguous.

    Raises InputError for shapes and dtypes that do not fit, and for neighbours out of range;
    BackendError for a backend that cannot take the inputs.
    """
    _check(q, k, v, neighbors, counts, bias)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    attend = OP.select(backend, q.device)
    out, lse = attend(q, k, v, neighbors, counts, bias, scale)
    return (out, lse) if return_lse else out


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    neighbors: torch.Tensor,
    counts: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    if q.ndim != 4 or neighbors.ndim != 3 or k.ndim != 4 or v.ndim != 4:
        raise InputError(
            "graph_attention expects q [B,H,T,D], k [B,H,S,D], v [B,H,S,M] and neighbors [B,T,E], "
            f"got {_shape(q)}, {_shape(k)}, {_shape(v)} and {_shape(neighbors)}"
        )
    batch, heads, rows, width = q.shape
    sources, edges = k.shape[2], neighbors.shape[2]
    _expect("k", k, (batch, heads, sources, width))
    _expect("v", v, (batch, heads, sources, v.shape[3]))
    _expect("neighbors", neighbors, (batch, rows, edges))
    _expect("counts", counts, (batch, rows))
    if neighbors.dtype != torch.int32 or counts.dtype != torch.int32:
        raise InputError(
            f"neighbors and counts must be int32, got {neighbors.dtype} and {counts.dtype}"
        )
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise InputError(
            f"q, k and v must share one floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    if sources == 0:
        raise InputError("k and v hold no token: S must be at least 1")
    if bias is not None:
        _expect("bias", bias, (batch, heads, rows, edges))


def _expect(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"graph_attention: {name} must be {list(shape)} to fit q and neighbors, "
            f"got {_shape(tensor)}"
        )


def _shape(tensor: torch.Tensor) -> list[int]:
    return list(tensor.shape)
