"""How autograd calls a backend's forward and backward, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def connect(forward: Any, backward: Callable[..., tuple[Tensor, ...]]) -> None:
    """Make `backward` the gradient of the custom op `forward`.

    forward(x, dt, A, B, C, D, initial_state, chunk_size) returns y, the final state and the states
    that enter the chunks; backward(dy, dfinal, x, dt, A, B, C, D, states, chunk_size) the gradients
    of x, dt, A, B, C, D and the initial state. dfinal is None if nothing asked for it.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, initial_state, chunk_size = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.has_initial = initial_state is not None
        ctx.chunk_size = chunk_size
        ctx.set_materialize_grads(False)

    def grads(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: None) -> tuple[Any, ...]:
        x, dt, A, B, C, D, states = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        *needed, dD, dinitial = backward(dy, dfinal, x, dt, A, B, C, D, states, ctx.chunk_size)
        return *needed, None if D is None else dD, dinitial if ctx.has_initial else None, None

    forward.register_autograd(grads, setup_context=setup_context)
