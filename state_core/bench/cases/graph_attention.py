"""Attention over the edges of a graph, against attention over all pairs.

Shapes: B batch, T tokens, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, compare
from state_core.bench.inputs import (
    Call,
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


def flex_attention(inputs: Inputs) -> Callable[[], Tensor]:
    """torch's compiled flex_attention over the same edges, by a mask of blocks and one of pairs.

    It has no backward on a CPU. Its masks are made here, untimed; the mask of pairs is [T,T].
    """
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    q, k, v, neighbors, counts = (inputs[name].detach() for name in ROWS)
    length, edges = neighbors.shape[1:]
    present = torch.arange(edges, device=q.device) < counts[0, :, None]
    row = torch.arange(length, device=q.device)[:, None].expand_as(present)
    allowed = torch.zeros(length, length, dtype=torch.bool, device=q.device)
    allowed[row[present], neighbors[0].long()[present]] = True

    def edge(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return allowed[i, j]

    mask = create_block_mask(edge, None, None, length, length, device=str(q.device))
    attend = torch.compile(flex)
    return without_gradients(lambda: attend(q, k, v, block_mask=mask))


def without_gradients(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call under torch.inference_mode."""
    return torch.inference_mode()(call)


def _forward(call: Call, *names: str) -> Callable[[Inputs], Callable[[], Tensor]]:
    return lambda inputs: without_gradients(lambda: call(*(inputs[name] for name in names)))


def _forward_check(device: torch.device) -> list[Comparison]:
    inputs = _attention_inputs({"B": 1, "T": 65, "H": 2, "D": 16, "E": 8}, device)
    ours, flex = (call(inputs)() for call in (_forward(ops.graph_attention, *ROWS), flex_attention))
    return [*_attention_check(device), compare("flex_attention", (ours,), (flex,))]


Case(
    name="graph_attention",
    group="ops",
    about="attention over E edges a row, forward and backward, against all causal pairs",
    sizes=tuple(
        {"B": 1, "T": t, "H": 8, "D": 64, "E": 64} for t in (1024, 4096, 16384, 65536, 131072)
    ),
    quick=tuple({"B": 1, "T": t, "H": 2, "D": 16, "E": 16} for t in (128, 256)),
    inputs=_attention_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.graph_attention, *ROWS, wrt=QKV)),
        Contender("sdpa", forward_backward(dense_attention, *QKV, wrt=QKV), most=16384),
    ),
    check=_attention_check,
    goals=(
        Goal("sdpa", least=8, at=4096),
        Goal("sdpa", least=20, at=16384),
        Goal("memory growth", most=1.1),
        Goal("time growth", most=1.2),
    ),
)

Case(
    name="graph_attention_forward",
    group="ops",
    about="the same, forward only, against compiled flex_attention with the same mask",
    sizes=tuple({"B": 1, "T": t, "H": 8, "D": 64, "E": 64} for t in (4096, 16384)),
    quick=tuple({"B": 1, "T": t, "H": 2, "D": 16, "E": 16} for t in (128, 256)),
    inputs=_attention_inputs,
    contenders=(
        Contender(OURS, _forward(ops.graph_attention, *ROWS)),
        Contender("flex_attention", flex_attention),
        Contender("sdpa", _forward(dense_attention, *QKV)),
    ),
    check=_forward_check,
    goals=(Goal("flex_attention", least=4),),
)
