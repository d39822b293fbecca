"""Graphs in compressed rows: what is checked of them, and their arcs turned around.

Row u's arcs are `indices[indptr[u] : indptr[u + 1]]`. Shapes: N nodes, E arcs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.errors import InputError


def check_graph(op: str, indptr: Tensor, indices: Tensor, weights: Tensor | None = None) -> int:
    """The number of nodes of a well-formed graph; InputError for any other, naming what is wrong.

    indptr: [N + 1] int64 or int32, from 0 to E, never falling. indices: [E] int32 in 0 … N - 1.
    weights: [E] float32 or float64, finite, at least 0.
    """
    if indptr.ndim != 1 or indices.ndim != 1 or len(indptr) == 0:
        shapes = f"{list(indptr.shape)} and {list(indices.shape)}"
        raise InputError(f"{op} expects indptr [N + 1] and indices [E], got {shapes}")
    if indptr.dtype not in (torch.int32, torch.int64) or indices.dtype != torch.int32:
        kinds = f"{indptr.dtype} and {indices.dtype}"
        raise InputError(f"{op} expects indptr int64 or int32 and indices int32, got {kinds}")
    nodes, arcs = len(indptr) - 1, len(indices)
    if int(indptr[0]) != 0 or int(indptr[-1]) != arcs or bool((indptr[1:] < indptr[:-1]).any()):
        raise InputError(f"{op}: indptr must rise from 0 to the number of arcs, {arcs}")
    check_nodes(op, "indices", indices, nodes)
    if weights is not None:
        _check_weights(op, weights, arcs)
    return nodes


def check_nodes(op: str, name: str, ids: Tensor, nodes: int) -> None:
    """InputError unless every id is that of a node."""
    if ids.numel() == 0:
        return
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= nodes:
        raise InputError(f"{op}: {name} must be within 0 … {nodes - 1}, got {low} … {high}")


def _check_weights(op: str, weights: Tensor, arcs: int) -> None:
    if tuple(weights.shape) != (arcs,) or weights.dtype not in (torch.float32, torch.float64):
        got = f"{list(weights.shape)} {weights.dtype}"
        raise InputError(f"{op} expects weights [{arcs}] float32 or float64, got {got}")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise InputError(f"{op}: weights must be finite and at least 0")
