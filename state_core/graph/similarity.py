"""Similarity of two tokens as one inner product, with exact per-block contributions.

Blockwise: sim(i,j) = Σ_b w_b·cos(s_i^b, s_j^b). Scaling each normalised block by √w_b and
concatenating turns it into u_i·u_j; the contributions are the terms of the sum. Features are
computed in float64 and rounded once, so that a token's are the same however the text is chunked.

B batch, S tokens, T rows, E edges of a row, N blocks, d feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from state_core import ops
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

    @property
    def width(self) -> int:
        """How many features d a token has."""
        return BLOCK_WIDTH * len(self.blocks)

    def weights(self) -> Tensor:
        """The weight of each chosen block; positive, with the sum that the config gave."""
        return self.total * self.log_weights.double().softmax(0)

    def features(self, semantic: Tensor) -> Tensor:
        """[B,S,N,4] → u [B,S,d] with u_i·u_j = sim(i,j)."""
        return self._scaled(semantic).flatten(2).to(semantic.dtype)

    def contributions(
        self, semantic: Tensor, rows: Tensor, neighbors: Tensor, counts: Tensor
    ) -> Tensor:
        """Each block's share of the similarity, [B,T,E,N], of the edges of tokens `rows` [B,T]."""
        u = self.features(semantic)
        shares = ops.edge_scores(_of(u, rows), neighbors, counts, keys=u, blocks=len(self.blocks))
        terms = shares.new_zeros(*neighbors.shape, self.n_blocks)
        terms[..., self.blocks] = shares
        return terms

    def against(self, semantic: Tensor, features: Tensor) -> Tensor:
        """Each block's share of the similarity, [M,N], of one token's state [N,4] to tokens of
        which only the features [M,d] are at hand."""
        own = self.features(semantic[None, None])[0, 0]
        terms = features.new_zeros(len(features), self.n_blocks)
        terms[:, self.blocks] = (own * features).unflatten(-1, (-1, BLOCK_WIDTH)).sum(-1)
        return terms

    def dominant(self, semantic: Tensor, rows: Tensor, neighbors: Tensor) -> Tensor:
        """The block with the largest contribution, its number in the layout, [B,T,E], of the edges
        of tokens `rows` [B,T] to `neighbors` [B,T,E]; any number where neighbors is −1.

        A token more costs no more in a longer text: where there are more tokens than edges, only
        the edges' ends are read.
        """
        batch = torch.arange(len(rows), device=rows.device)[:, None]
        ends = batch[..., None], neighbors.clamp(min=0).long()
        if neighbors.numel() < semantic[..., 0, 0].numel():
            own, theirs = self._scaled(semantic[batch, rows]), self._scaled(semantic[ends])
        else:
            scaled = self._scaled(semantic)
            own, theirs = scaled[batch, rows], scaled[ends]
        shares = (own[:, :, None] * theirs).sum(-1)
        return torch.tensor(self.blocks, device=rows.device)[shares.argmax(-1)]

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

    @property
    def width(self) -> int:
        """How many features d a token has."""
        return self.basis.shape[1]

    def features(self, semantic: Tensor) -> Tensor:
        """[B,S,N,4] → u [B,S,d] with u_i·u_j = sim(i,j)."""
        return _unit(self._project(semantic)).to(semantic.dtype)

    def contributions(
        self, semantic: Tensor, rows: Tensor, neighbors: Tensor, counts: Tensor
    ) -> Tensor:
        """Each block's share of the similarity, [B,T,E,N], of the edges of tokens `rows` [B,T].

        A projection mixes blocks; the share is that of the row's own block.
        """
        projected = self._project(semantic)
        scale = projected.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        own = (semantic.flatten(2).double() / scale).to(semantic.dtype)
        pulled = (projected / scale @ self.basis.double().T).to(semantic.dtype)
        return ops.edge_scores(
            _of(own, rows), neighbors, counts, keys=pulled, blocks=semantic.shape[2]
        )

    def against(self, semantic: Tensor, features: Tensor) -> Tensor:
        """Each block's share of the similarity, [M,N], of one token's state [N,4] to tokens of
        which only the features [M,d] are at hand."""
        scale = self._project(semantic[None]).norm().clamp(min=_TINY)
        own = semantic.flatten().double() / scale
        pulled = features.double() @ self.basis.double().T
        return (own * pulled).unflatten(-1, (-1, BLOCK_WIDTH)).sum(-1).to(features.dtype)

    def _project(self, semantic: Tensor) -> Tensor:
        return semantic.flatten(-2).double() @ self.basis.double()


_TINY = 1e-12


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=_TINY)


def _of(u: Tensor, rows: Tensor) -> Tensor:
    """u [B,S,d] at tokens [B,T]."""
    return u.gather(1, rows[..., None].expand(-1, -1, u.shape[-1]))


def build_similarity(
    config: GraphConfig, layout: tuple[str, ...]
) -> BlockwiseSimilarity | StateSimilarity:
    """The similarity that `config.similarity` names."""
    if config.similarity == "blockwise":
        return BlockwiseSimilarity(config, layout)
    return StateSimilarity(
        layout, config.projection_dim if config.similarity == "projection" else None
    )
