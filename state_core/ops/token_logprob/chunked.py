"""Logits by chunks of tokens: CPU and CUDA.

A chunk's logits are small enough to stay in the cache between the product and the passes over it.
Only each token's log-sum-exp is kept: the backward makes each chunk's logits again,

    d/dh_n = g_n (w_{y_n} − Σ_v p_nv w_v)        d/dw_v = Σ_n g_n ([v = y_n] − p_nv) h_n

Shapes: N tokens, V vocabulary, r width of the embedding, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from state_core.errors import InputError
from state_core.ops.token_logprob.softmax import log_sum_exp, probabilities

# Bytes of logits at a time: within the caches on a CPU, enough to fill a GPU.
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}


def token_logprob(h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """See `state_core.ops.token_logprob`."""
    value, _ = _forward(h, weight, targets)
    return value


@torch.library.custom_op("state_core::token_logprob", mutates_args=())
def _forward(
    h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if targets.numel() and int(targets.max()) >= weight.shape[0]:
        raise InputError(f"targets must be below {weight.shape[0]}, got {int(targets.max())}")
    value, log_mass = _value(h), _value(h)
    known = targets.clamp(min=0)[:, None]
    for chunk in _chunks(h, weight):
        logits = (h[chunk] @ weight.T).to(value.dtype)  # [C, V]
        log_mass[chunk] = log_sum_exp(logits)
        value[chunk] = logits.gather(1, known[chunk])[:, 0] - log_mass[chunk]
    return value.masked_fill_(targets < 0, 0.0), log_mass


@_forward.register_fake
def _forward_fake(
    h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return _value(h), _value(h)


@torch.library.custom_op("state_core::token_logprob_backward", mutates_args=())
def _backward(
    gradient: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    log_mass: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    dh = torch.empty_like(h, memory_format=torch.contiguous_format)
    # Many chunks are added up: in fp32 at least, and rounded once.
    d_weight = torch.zeros(weight.shape, dtype=gradient.dtype, device=h.device)
    down = gradient.masked_fill(targets < 0, 0.0).neg_()[:, None]
    known = targets.clamp(min=0)[:, None]
    minus_one = down.new_full((len(h), 1), -1.0)
    scaled = (down * h).to(h.dtype)
    for chunk in _chunks(h, weight):
        logits = (h[chunk] @ weight.T).to(gradient.dtype)  # [C, V]
        error = probabilities(logits, log_mass[chunk])
        error = error.scatter_add_(1, known[chunk], minus_one[chunk]).to(h.dtype)
        torch.mm(error, weight, out=dh[chunk])
        d_weight += error.T @ scaled[chunk]
    return dh.mul_(down), d_weight.to(weight.dtype)


@_backward.register_fake
def _backward_fake(
    gradient: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    log_mass: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape)


def _setup_context(
    ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(
    ctx: Any, gradient: torch.Tensor, _: None
) -> tuple[torch.Tensor, torch.Tensor, None]:
    return *_backward(gradient, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _value(h: torch.Tensor) -> torch.Tensor:
    """An empty [N]: the softmax is in fp32 at least. (`len` would fix N for torch.compile.)"""
    return h.new_empty(h.shape[0], dtype=torch.promote_types(h.dtype, torch.float32))


def _chunks(h: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES[h.device.type] // (4 * weight.shape[0]))
    return (slice(start, start + size) for start in range(0, len(h), size))
