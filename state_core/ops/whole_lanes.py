"""Rows whose width is a whole number of vectors, for kernels that compute in `lanes`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from state_core.ops.lanes import WIDTH


def padded(x: Tensor, groups: int = 1) -> Tensor:
    """x [...,n] with zeros behind each of its groups, up to whole vectors; x itself if it fits."""
    rest = -(x.shape[-1] // groups) % WIDTH
    return F.pad(x.unflatten(-1, (groups, -1)), (0, rest)).flatten(-2) if rest else x


def unpadded(x: Tensor, width: int, groups: int = 1) -> Tensor:
    """[...,width], contiguous: what `padded` added is gone."""
    if x.shape[-1] == width:
        return x
    return x.unflatten(-1, (groups, -1))[..., : width // groups].flatten(-2).contiguous()
