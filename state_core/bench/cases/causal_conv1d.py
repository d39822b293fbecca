"""The short causal convolution of Mamba layers.

Shapes: B batch, T tokens, C channels, W taps.
"""

from __future__ import annotations

from typing import Any

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

CONV = ("x", "weight", "bias")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, backend: str = "auto") -> Any:
    return ops.causal_conv1d(x, weight, bias, activation="silu", backend=backend)


def _conv_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (shape["B"], shape["T"], shape["C"])
    return {
        "x": normal(0, device, *size),
        "weight": normal(1, device, shape["C"], shape["W"]),
        "bias": normal(2, device, shape["C"]),
        "grad": normal(3, device, *size),
    }


def _conv_check(device: torch.device) -> list[Comparison]:
    inputs = _conv_inputs({"B": 2, "T": 65, "C": 24, "W": 4}, device)
    ours = with_gradients(_convolve, inputs, CONV, CONV)
    return [
        compare(name, ours, with_gradients(call, inputs, CONV, CONV))
        for name, call in (("naive", naive(_convolve)), ("nn.Conv1d", torch_conv))
    ]


def torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution and SiLU as Mamba layers write it: nn.Conv1d, padded and cut."""
    channels, width = weight.shape
    padded = F.conv1d(x.mT, weight[:, None], bias, padding=width - 1, groups=channels)
    return F.silu(padded[..., : x.shape[1]]).mT


Case(
    name="causal_conv1d",
    group="ops",
    about="the short causal convolution of Mamba layers with SiLU, forward and backward",
    sizes=({"B": 8, "T": 512, "C": 512, "W": 4}, {"B": 8, "T": 1024, "C": 512, "W": 4}),
    quick=tuple({"B": 1, "T": t, "C": 32, "W": 4} for t in (64, 128)),
    inputs=_conv_inputs,
    contenders=(
        Contender(OURS, forward_backward(_convolve, *CONV, wrt=CONV)),
        Contender("nn.Conv1d", forward_backward(torch_conv, *CONV, wrt=CONV)),
    ),
    check=_conv_check,
)
