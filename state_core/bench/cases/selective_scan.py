"""Mamba-1's scan.

Shapes: B batch, T tokens, C channels, N state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, compare, installed
from state_core.bench.inputs import Inputs, forward_backward, naive, normal, with_gradients

SCAN = ("u", "delta", "A", "B", "C", "D")


def _scan_inputs(shape: Shape, device: torch.device) -> Inputs:
    batch, length, channels, n_state = shape["B"], shape["T"], shape["C"], shape["N"]
    rates = torch.arange(1.0, n_state + 1, device=device).expand(channels, n_state)
    return {
        "u": normal(0, device, batch, length, channels),
        "delta": _leaf(0.1 * F.softplus(normal(1, device, batch, length, channels))),
        "A": _leaf(-rates * (0.1 * normal(2, device, channels, n_state)).exp()),
        "B": normal(3, device, batch, length, n_state),
        "C": normal(4, device, batch, length, n_state),
        "D": normal(5, device, channels),
        "grad": normal(6, device, batch, length, channels),
    }


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _scan_check(device: torch.device) -> list[Comparison]:
    inputs = _scan_inputs({"B": 2, "T": 65, "C": 24, "N": 16}, device)
    ours = with_gradients(ops.selective_scan, inputs, SCAN, SCAN)
    trusted = {"naive": naive(ops.selective_scan)}
    trusted |= {"mambapy": mambapy_scan} if installed("mambapy") else {}
    trusted |= {"transformers": transformers_scan} if installed("transformers") else {}
    return [
        compare(name, ours, with_gradients(call, inputs, SCAN, SCAN))
        for name, call in trusted.items()
    ]


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """mambapy's parallel scan, prepared as its MambaBlock does: every state is in memory."""
    from mambapy.pscan import pscan

    decay = torch.exp(delta[..., None] * A)
    write = delta[..., None] * B[:, :, None] * u[..., None]
    states: Tensor = pscan(decay, write)
    return (states @ C[..., None]).squeeze(3) + D * u


def transformers_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """The loop over tokens that `transformers` runs inside its Mamba layer without CUDA kernels."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    out: Tensor = mamba_selective_scan(u.mT, delta.mT, A, B.mT, C.mT, D)
    return out.mT


Case(
    name="selective_scan",
    group="ops",
    about="the Mamba-1 scan, forward and backward",
    sizes=tuple({"B": 8, "T": t, "C": 512, "N": 16} for t in (128, 256, 512)),
    quick=tuple({"B": 1, "T": t, "C": 32, "N": 16} for t in (64, 128)),
    inputs=_scan_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.selective_scan, *SCAN, wrt=SCAN)),
        Contender("mambapy", forward_backward(mambapy_scan, *SCAN, wrt=SCAN), "mambapy"),
        Contender(
            "transformers", forward_backward(transformers_scan, *SCAN, wrt=SCAN), "transformers"
        ),
    ),
    check=_scan_check,
    goals=(Goal("mambapy", least=10, at=512), Goal("memory growth", most=1.1)),
)
