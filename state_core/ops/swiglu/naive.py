"""The reference, in the order of the formula."""

from __future__ import annotations

from torch import Tensor


def swiglu(x: Tensor) -> Tensor:
    """[...,2F] → [...,F]."""
    gate, up = x.chunk(2, dim=-1)
    return gate * gate.sigmoid() * up
