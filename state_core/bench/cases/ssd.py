"""Mamba-2's scan.

Shapes: B batch, T tokens, H heads, P head width, N state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import (
    OURS,
    Case,
    Comparison,
    Contender,
    Goal,
    Shape,
    Thunk,
    compare,
    installed,
)
from state_core.bench.inputs import (
    Inputs,
    forward_backward,
    naive,
    normal,
    with_gradients,
)
from state_core.bench.products import scan_products

TRANSFORMERS_CHUNK = 64  # no slower on CPU than its default of 256, and lighter on memory
CHUNK = 64  # the default of ops.ssd
SCAN = ("x", "dt", "A", "B", "C")


def _scan_inputs(shape: Shape, device: torch.device) -> Inputs:
    batch, length, heads = shape["B"], shape["T"], shape["H"]
    return {
        "x": normal(0, device, batch, length, heads, shape["P"]),
        "dt": _leaf(0.1 * F.softplus(normal(1, device, batch, length, heads))),
        "A": _leaf(-normal(2, device, heads).exp()),
        "B": normal(3, device, batch, length, 1, shape["N"]),
        "C": normal(4, device, batch, length, 1, shape["N"]),
        "grad": normal(5, device, batch, length, heads, shape["P"]),
    }


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _scan_check(device: torch.device) -> list[Comparison]:
    inputs = _scan_inputs({"B": 2, "T": 65, "H": 2, "P": 16, "N": 16}, device)
    ours = with_gradients(ops.ssd, inputs, SCAN, SCAN)
    trusted = {"naive": naive(ops.ssd)}
    trusted |= {"mambapy": mambapy_scan} if installed("mambapy") else {}
    trusted |= {"transformers": transformers_scan} if installed("transformers") else {}
    return [
        compare(name, ours, with_gradients(call, inputs, SCAN, SCAN), 1e-3)
        for name, call in trusted.items()
    ]


def mambapy_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """mambapy's parallel scan, on the channels that our heads stand for.

    x [B,T,H,P], dt [B,T,H], A [H], B and C [B,T,1,N] → [B,T,H,P]. mambapy scans the state of each
    channel, [B,T,H·P,N]; a head's channels share dt and A, so that both compute the same.
    """
    from mambapy.pscan import pscan

    batch, length, heads, width = x.shape
    dt_channel = dt.repeat_interleave(width, dim=2)
    decay = torch.exp(dt_channel[..., None] * A.repeat_interleave(width)[:, None])
    write = (dt_channel * x.flatten(2))[..., None] * B
    states = pscan(decay.expand_as(write), write)
    return (states @ C.mT).view(batch, length, heads, width)


def transformers_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The chunked scan in torch that `transformers` runs inside its Mamba-2 layer."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    out: Tensor = mamba2_chunk_scan(x, dt, A, B, C, chunk_size=TRANSFORMERS_CHUNK)
    return out


def its_products(inputs: Inputs) -> Thunk:
    """The scan's own matrix products, bare, by the faster of torch's two libraries on a CPU."""
    batch, length, heads, width = inputs["x"].shape
    groups, state = inputs["B"].shape[2:]
    products = scan_products(batch, length, heads, groups, width, state, CHUNK, inputs["x"].device)

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        products()
        torch.set_float32_matmul_precision(before)

    return run


Case(
    name="ssd",
    group="ops",
    about="the Mamba-2 scan, forward and backward",
    sizes=tuple({"B": 8, "T": t, "H": 8, "P": 64, "N": 64} for t in (128, 256, 512)),
    quick=tuple({"B": 1, "T": t, "H": 2, "P": 16, "N": 16} for t in (64, 128)),
    inputs=_scan_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.ssd, *SCAN, wrt=SCAN)),
        Contender("mambapy", forward_backward(mambapy_scan, *SCAN, wrt=SCAN), "mambapy"),
        Contender(
            "transformers",
            forward_backward(transformers_scan, *SCAN, wrt=SCAN),
            "transformers",
        ),
        Contender("its products", its_products),
    ),
    check=_scan_check,
    goals=(
        Goal("mambapy", least=20, at=512),
        Goal("transformers", least=3, at=512),
        Goal("its products", least=1 / 1.5, at=512),
        Goal("memory growth", most=1.1),
    ),
)
