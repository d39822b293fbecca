"""Linear layers of low rank: W ≈ B·A with A [r,in] and B [out,r].

They start from the singular value decomposition W = U S Vᵀ, cut to rank r: A = √S·Vᵀ, B = U·√S,
the best approximation of its rank, its scale shared evenly by the two factors.

r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactorisedLinear(nn.Module):
    """[...,in] → [...,out] through r numbers."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        u, s, v = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False)
        root = s[:rank].sqrt()
        like = linear.weight
        self.a = nn.Linear(self.in_features, rank, bias=False, device=like.device)
        with_bias = linear.bias is not None
        self.b = nn.Linear(rank, self.out_features, bias=with_bias, device=like.device)
        self.a.weight = nn.Parameter((root[:, None] * v[:rank]).to(like.dtype))
        self.b.weight = nn.Parameter((u[:, :rank] * root).to(like.dtype))
        if with_bias:
            self.b.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x))
        return out


def factorise_linears(layers: nn.Module, rank: int) -> None:
    """Replace every linear layer inside `layers` that two factors of `rank` make smaller."""
    for name, module in list(layers.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        inner, outer = module.in_features, module.out_features
        if rank * (inner + outer) >= inner * outer:
            continue
        parent, _, child = name.rpartition(".")
        setattr(layers.get_submodule(parent), child, FactorisedLinear(module, rank))
