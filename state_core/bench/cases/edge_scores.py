"""Scores of the chosen edges.

Shapes: B batch, T tokens, E edges of a row, d width of the states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Shape, compare
from state_core.bench.inputs import (
    Inputs,
    forward_backward,
    naive,
    normal,
    spread_rows,
    with_gradients,
)

EDGES = ("u", "neighbors", "counts")


def _edge_inputs(shape: Shape, device: torch.device) -> Inputs:
    neighbors, counts = spread_rows(shape["B"], shape["T"], shape["E"], device)
    return {
        "u": normal(0, device, shape["B"], shape["T"], shape["d"]),
        "neighbors": neighbors,
        "counts": counts,
        "grad": normal(1, device, shape["B"], shape["T"], shape["E"]),
    }


def _edge_check(device: torch.device) -> list[Comparison]:
    inputs = _edge_inputs({"B": 2, "T": 65, "E": 9, "d": 12}, device)
    ours = with_gradients(ops.edge_scores, inputs, EDGES, ("u",))
    return [
        compare(name, ours, with_gradients(call, inputs, EDGES, ("u",)))
        for name, call in (
            ("naive", naive(ops.edge_scores)),
            ("gather + einsum", gathered_scores),
        )
    ]


def gathered_scores(u: Tensor, neighbors: Tensor, counts: Tensor) -> Tensor:
    """Inner products of rows with their neighbours, by gathering [B,T,E,d]."""
    batch, _, edges = neighbors.shape
    rows = torch.arange(batch, device=u.device)[:, None, None]
    present = torch.arange(edges, device=u.device) < counts[..., None]
    gathered = u[rows, neighbors.long() * present]
    return torch.einsum("btd,bted->bte", u, gathered) * present


Case(
    name="edge_scores",
    group="ops",
    about="differentiable similarity of the chosen edges, forward and backward",
    sizes=tuple({"B": 1, "T": t, "E": 16, "d": 12} for t in (4096, 16384)),
    quick=tuple({"B": 1, "T": t, "E": 4, "d": 12} for t in (64, 128)),
    inputs=_edge_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.edge_scores, *EDGES, wrt=("u",))),
        Contender("gather + einsum", forward_backward(gathered_scores, *EDGES, wrt=("u",))),
    ),
    check=_edge_check,
)
