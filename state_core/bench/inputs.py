"""What cases build their inputs and contenders from.

Shapes: B batch, T tokens, E edges of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from state_core.bench.case import Thunk

Inputs = dict[str, Tensor]
Call = Callable[..., Any]  # tensors in, one tensor out


def forward_backward(call: Call, *names: str, wrt: tuple[str, ...]) -> Callable[[Inputs], Thunk]:
    """A contender that calls on the named inputs and takes the gradient in those of `wrt`."""

    def prepare(inputs: Inputs) -> Thunk:
        return lambda: with_gradients(call, inputs, names, wrt)

    return prepare


def with_gradients(
    call: Call, inputs: Inputs, names: tuple[str, ...], wrt: tuple[str, ...]
) -> tuple[Tensor, ...]:
    """The output, and its gradients along inputs["grad"] in those of `wrt`."""
    out = call(*(inputs[name] for name in names))
    return out, *torch.autograd.grad(out, [inputs[name] for name in wrt], inputs["grad"])


def naive(op: Callable[..., Any]) -> Call:
    """The op's reference implementation."""
    return lambda *args: op(*args, backend="naive")


def normal(seed: int, device: torch.device, *shape: int) -> Tensor:
    """A standard normal leaf tensor, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device).requires_grad_()


def spread_rows(batch: int, length: int, edges: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of distinct causal neighbours drawn evenly over the whole past: the least local, and so
    the hardest, rows for a cache. A row has min(edges, past and itself) of them.

    Returns neighbors [B,T,E] and counts [B,T], both int32.
    """
    generator = torch.Generator().manual_seed(0)
    past = torch.arange(1, length + 1)
    counts = past.clamp(max=edges)
    stratum = torch.arange(edges).expand(length, edges)
    low = stratum * past[:, None] // counts[:, None]
    high = (stratum + 1) * past[:, None] // counts[:, None]
    draw = torch.rand(batch, length, edges, generator=generator)
    neighbors = (low + (draw * (high - low)).long()).where(stratum < counts[:, None], 0)
    return (
        neighbors.to(device, torch.int32),
        counts.expand(batch, length).contiguous().to(device, torch.int32),
    )
