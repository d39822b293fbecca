"""Similarity of two tokens as one inner product, with exact per-block contributions.

Blockwise: sim(i,j) = Σ_b w_b·cos(s_i^b, s_j^b). Scaling each normalised block by √w_b and
concatenating turns it into u_i·u_j; the contributions are the terms of the sum. Features are
computed in float64 and rounded once, so that a token's are the same however the text is chunked.

B batch, T tokens, E edges, N blocks, d feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core.config import GraphConfig
from state_core.state import BLOCK_WIDTH


class BlockwiseSimilarity(nn.Module):
    """A weighted sum of the cosines of chosen blocks."""

    def __init__(self, config: GraphConfig, layout: tuple[str, ...]) -> None:
        super().__init__()
        chosen = {name: w for name, w in config.block_weights.items() if w > 0}
        self.n_blocks = len(layout)
        self.blocks = [layout.index(name) for name in chosen]
        self.total = sum(chosen.values())
        share = torch.tensor([w / self.total for w in chosen.values()], dtype=torch.float64)
        self.log_weights = nn.Parameter(share.log(), requires_grad=config.learn_weights)

    def weights(self) -> Tensor:
        """The weight of each chosen block; positive, with the sum that the config gave."""
        return self.total * self.log_weights.double().softmax(0)

    def features(self, semantic: Tensor) -> Tensor:
        """[B,T,N,4] → u [B,T,d] with u_i·u_j = sim(i,j)."""
        return self._scaled(semantic).flatten(2).to(semantic.dtype)

    def contributions(self, source: Tensor, target: Tensor) -> Tensor:
        """Each block's share of the similarity, [E,N], for the states [E,N,4] of edges' ends."""
        u, v = self._scaled(source).to(source.dtype), self._scaled(target).to(target.dtype)
        terms = source.new_zeros(source.shape[0], self.n_blocks)
        terms[:, self.blocks] = (u * v).sum(-1)
        return terms

    def _scaled(self, semantic: Tensor) -> Tensor:
        chosen = semantic[..., self.blocks, :].double()
        return _unit(chosen) * self.weights().sqrt()[:, None]


class StateSimilarity(nn.Module):
    """The cosine of the whole state, or of a fixed orthonormal projection of it (seed 2.4)."""

    basis: Tensor

    def __init__(self, layout: tuple[str, ...], projection_dim: int | None = None) -> None:
        super().__init__()
        width = BLOCK_WIDTH * len(layout)
        basis = torch.eye(width, dtype=torch.float64)
        if projection_dim is not None:
            # A researcher's rerun must get the same projection whatever the global seed.
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(width, projection_dim, generator=generator, dtype=torch.float64)
            basis = torch.linalg.qr(noise).Q
        self.register_buffer("basis", basis)

    def features(self, semantic: Tensor) -> Tensor:
        """[B,T,N,4] → u [B,T,d] with u_i·u_j = sim(i,j)."""
        return _unit(self._project(semantic)).to(semantic.dtype)

    def contributions(self, source: Tensor, target: Tensor) -> Tensor:
        """Each block's share of the similarity, [E,N], for the states [E,N,4] of edges' ends.

        A projection mixes blocks; the share is that of the source token's block.
        """
        scale = self._project(source).norm(dim=-1, keepdim=True).clamp(min=_TINY)
        pulled = _unit(self._project(target)) @ self.basis.double().T
        terms = (source.flatten(1).double() / scale) * pulled
        return terms.unflatten(1, (-1, BLOCK_WIDTH)).sum(-1).to(source.dtype)

    def _project(self, semantic: Tensor) -> Tensor:
        return semantic.flatten(-2).double() @ self.basis.double()


_TINY = 1e-12


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=_TINY)


def build_similarity(
    config: GraphConfig, layout: tuple[str, ...]
) -> BlockwiseSimilarity | StateSimilarity:
    """The similarity that `config.similarity` names."""
    if config.similarity == "blockwise":
        return BlockwiseSimilarity(config, layout)
    return StateSimilarity(
        layout, config.projection_dim if config.similarity == "projection" else None
    )
