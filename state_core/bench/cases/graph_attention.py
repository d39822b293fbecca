"""Attention over the edges of a graph, against attention over all pairs.

Shapes: B batch, T tokens, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, compare
from state_core.bench.inputs import (
    Inputs,
    forward_backward,
    naive,
    normal,
    spread_rows,
    with_gradients,
)

QKV = ("q", "k", "v")
ROWS = (*QKV, "neighbors", "counts")


def _attention_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (shape["B"], shape["H"], shape["T"], shape["D"])
    neighbors, counts = spread_rows(shape["B"], shape["T"], shape["E"], device)
    tensors = {name: normal(i, device, *size) for i, name in enumerate((*QKV, "grad"))}
    return {**tensors, "neighbors": neighbors, "counts": counts}


def _attention_check(device: torch.device) -> list[Comparison]:
    few = _attention_inputs({"B": 2, "T": 65, "H": 2, "D": 16, "E": 8}, device)
    every = _attention_inputs({"B": 1, "T": 63, "H": 2, "D": 16, "E": 63}, device)
    ours = with_gradients(ops.graph_attention, few, ROWS, QKV)
    reference = with_gradients(naive(ops.graph_attention), few, ROWS, QKV)
    full = with_gradients(ops.graph_attention, every, ROWS, QKV)
    dense = with_gradients(dense_attention, every, QKV, QKV)
    return [compare("naive", ours, reference), compare("sdpa, with every edge", full, dense)]


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's scaled dot-product attention over all causal pairs. q, k, v [B,H,T,D]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


Case(
    name="graph_attention",
    group="ops",
    about="attention over E edges a row, forward and backward, against all causal pairs",
    sizes=tuple({"B": 1, "T": t, "H": 8, "D": 64, "E": 64} for t in (1024, 4096, 16384)),
    quick=tuple({"B": 1, "T": t, "H": 2, "D": 16, "E": 16} for t in (128, 256)),
    inputs=_attention_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.graph_attention, *ROWS, wrt=QKV)),
        Contender("sdpa", forward_backward(dense_attention, *QKV, wrt=QKV)),
    ),
    check=_attention_check,
    goals=(
        Goal("sdpa", least=6, at=4096),
        Goal("sdpa", least=15, at=16384),
        Goal("memory growth", most=1.1),
    ),
)
