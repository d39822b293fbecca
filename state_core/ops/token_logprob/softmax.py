"""The passes of a softmax over a chunk of logits [C, V], one row a token.

On a CPU they are Numba kernels: torch's log_softmax writes a table that nobody reads.
"""

from __future__ import annotations

import torch


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """[C], in the dtype of the logits, float32 or float64."""
    if logits.device.type != "cpu":
        return logits.logsumexp(-1)
    from state_core.ops.numba_threads import match_torch_threads
    from state_core.ops.token_logprob import kernels

    out = logits.new_empty(len(logits))
    match_torch_threads()
    kernels.log_sum_exp(logits.numpy(), out.numpy())
    return out


def probabilities(logits: torch.Tensor, log_mass: torch.Tensor) -> torch.Tensor:
    """exp(logits − log_mass), in the place of the logits. log_mass [C] is their log-sum-exp."""
    if logits.device.type != "cpu":
        return logits.sub_(log_mass[:, None]).exp_()
    from state_core.ops.numba_threads import match_torch_threads
    from state_core.ops.token_logprob import kernels

    match_torch_threads()
    kernels.exp_minus(logits.numpy(), log_mass.numpy())
    return logits
