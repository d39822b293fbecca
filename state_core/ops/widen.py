"""Inputs of low precision for backends that compute in float32 or float64 only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def widen(first: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All tensors in the dtype of the first, but in float32 at least; None stays None."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in (first, *others))
