r"""The log-probability of each target under a softmax over the vocabulary, without the logits.

    log p_n = h_n · w_{y_n} − log Σ_v exp(h_n · w_v)

Training needs one number per token. `cross_entropy(h @ w.T, y)` holds [N, V] logits, their softmax
and its gradient to get it; here a chunk of tokens at a time has its logits, in the cache.

Shapes: N tokens, V vocabulary, r width of the embedding.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op

OP = Op(
    "token_logprob",
    {
        "chunked": Backend("state_core.ops.token_logprob.chunked", ("cpu", "cuda")),
        "naive": Backend("state_core.ops.token_logprob.naive"),
    },
)


def token_logprob(
    h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """log softmax(h weightᵀ)[target] for every token.

    h:       [N, r]; weight: [V, r], of one dtype (under autocast both take autocast's).
    targets: [N] int64 below V. A negative one gives 0 and no gradient (-100 is customary).
    backend: "auto", "chunked" (CPU, CUDA) or "naive".

    Returns [N], differentiable (once) in h and weight: float64 for float64, otherwise float32,
    since the softmax is in fp32 at least whatever the dtype of the product.
    Raises InputError for shapes and dtypes that do not fit, and for targets of V and more.
    """
    if h.ndim != 2 or weight.ndim != 2 or h.shape[1] != weight.shape[1]:
        raise InputError(
            "token_logprob expects h [N, r] and weight [V, r], "
            f"got {list(h.shape)} and {list(weight.shape)}"
        )
    if targets.shape != h.shape[:1] or targets.dtype != torch.int64:
        raise InputError(
            f"token_logprob expects targets [{h.shape[0]}] int64, "
            f"got {list(targets.shape)} {targets.dtype}"
        )
    if torch.is_autocast_enabled(h.device.type) and h.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(h.device.type)
        h, weight = h.to(dtype), weight.to(dtype)
    if not h.is_floating_point() or h.dtype != weight.dtype:
        raise InputError(
            f"h and weight must share one floating dtype, got {h.dtype} and {weight.dtype}"
        )
    result: torch.Tensor = OP.select(backend, h.device)(h, weight, targets)
    return result
