"""The head: log-probabilities of targets.

Shapes: N tokens, V vocabulary, r rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Shape, compare
from state_core.bench.inputs import (
    Inputs,
    forward_backward,
    naive,
    normal,
    with_gradients,
)

HEAD = ("h", "weight", "targets")


def _head_inputs(shape: Shape, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(shape["V"], (shape["N"],), generator=generator)
    return {
        "h": normal(0, device, shape["N"], shape["r"]),
        "weight": normal(1, device, shape["V"], shape["r"]),
        "targets": targets.to(device),
        "grad": normal(3, device, shape["N"]),
    }


def _head_check(device: torch.device) -> list[Comparison]:
    inputs = _head_inputs({"N": 65, "V": 130, "r": 12}, device)
    ours = with_gradients(ops.token_logprob, inputs, HEAD, HEAD[:2])
    return [
        compare(name, ours, with_gradients(call, inputs, HEAD, HEAD[:2]))
        for name, call in (
            ("naive", naive(ops.token_logprob)),
            ("cross_entropy", full_logprob),
        )
    ]


def full_logprob(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(h weightᵀ)[target] through the logits of the whole vocabulary [N,V]."""
    return -F.cross_entropy(h @ weight.T, targets, reduction="none")


Case(
    name="token_logprob",
    group="ops",
    about="log-probability of the targets through a tied head, forward and backward",
    sizes=tuple({"N": n, "V": 4096, "r": 96} for n in (4096, 16384)),
    quick=tuple({"N": n, "V": 256, "r": 16} for n in (64, 128)),
    inputs=_head_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.token_logprob, *HEAD, wrt=HEAD[:2])),
        Contender("cross_entropy", forward_backward(full_logprob, *HEAD, wrt=HEAD[:2])),
    ),
    check=_head_check,
    axis="N",
)
