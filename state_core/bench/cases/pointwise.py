"""The cases of what is bound by memory: norms and gates, against torch's own operators.

Shapes: N tokens, d width; gate and value of a SwiGLU lie in one tensor [N, 2d].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Shape, compare
from state_core.bench.inputs import Call, Inputs, forward_backward, naive, normal, with_gradients

EPS = 1e-5


def _normed(x: Tensor, weight: Tensor, backend: str = "auto") -> Tensor:
    return ops.rms_norm(x, weight, EPS, backend=backend)


def _torch_normed(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def _torch_gated(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def _torch_gated_norm(y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(y * F.silu(z), weight.shape, weight, EPS)


def _norm_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (shape["N"], shape["d"])
    tensors = {name: normal(i, device, *size) for i, name in enumerate(("x", "grad"))}
    return {**tensors, "weight": normal(2, device, shape["d"])}


def _gated_norm_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (1, shape["N"], shape["d"])
    tensors = {name: normal(i, device, *size) for i, name in enumerate(("y", "z", "grad"))}
    return {**tensors, "weight": normal(3, device, shape["d"])}


def _gate_inputs(shape: Shape, device: torch.device) -> Inputs:
    rows, width = shape["N"], shape["d"]
    return {"x": normal(0, device, rows, 2 * width), "grad": normal(1, device, rows, width)}


def _declare(
    name: str,
    about: str,
    width: int,
    inputs: Callable[[Shape, torch.device], Inputs],
    ours: Call,
    torch_name: str,
    theirs: Call,
    names: tuple[str, ...],
) -> None:
    def check(device: torch.device) -> list[Comparison]:
        small = inputs({"N": 65, "d": 33}, device)
        out = with_gradients(ours, small, names, names)
        trusted = (("naive", naive(ours)), (torch_name, theirs))
        return [compare(n, out, with_gradients(call, small, names, names)) for n, call in trusted]

    Case(
        name=name,
        group="ops",
        about=about,
        sizes=tuple({"N": n, "d": width} for n in (4096, 16384)),
        quick=tuple({"N": n, "d": 32} for n in (64, 128)),
        inputs=inputs,
        contenders=(
            Contender(OURS, forward_backward(ours, *names, wrt=names)),
            Contender(torch_name, forward_backward(theirs, *names, wrt=names)),
        ),
        check=check,
        axis="N",
    )


_declare(
    "rms_norm",
    "root-mean-square norm, forward and backward",
    192,
    _norm_inputs,
    _normed,
    "F.rms_norm",
    _torch_normed,
    ("x", "weight"),
)
_declare(
    "swiglu",
    "the gate of a SwiGLU, forward and backward",
    512,
    _gate_inputs,
    ops.swiglu,
    "silu · value",
    _torch_gated,
    ("x",),
)
_declare(
    "gated_rms_norm",
    "root-mean-square norm of what a gate lets through, forward and backward",
    512,
    _gated_norm_inputs,
    ops.gated_rms_norm,
    "silu · F.rms_norm",
    _torch_gated_norm,
    ("y", "z", "weight"),
)
