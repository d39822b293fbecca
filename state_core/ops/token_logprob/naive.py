"""The reference: all logits at once. N tokens, V vocabulary, r width of the embedding."""

from __future__ import annotations

import torch

from state_core.errors import InputError


def token_logprob(h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """See `state_core.ops.token_logprob`."""
    if targets.numel() and int(targets.max()) >= weight.shape[0]:
        raise InputError(f"targets must be below {weight.shape[0]}, got {int(targets.max())}")
    logits = h @ weight.T  # [N, V]
    softmax_in = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logprobs = logits.log_softmax(-1, dtype=softmax_in)
    chosen = logprobs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets < 0, 0.0, chosen)
