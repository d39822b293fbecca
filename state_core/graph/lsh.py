"""Edges by locality-sensitive hashing: candidates in O(T log T), where top-K reads all pairs.

Each table cuts space with a few random hyperplanes; two tokens on the same side of all of them
share a bucket (Charikar, STOC 2002), and similar tokens share one in some table (multi-table LSH,
as in approximate nearest neighbour attention, arXiv 2509.09001). A token's candidates are the most
recent members of its buckets, its edges the K most similar of those. What is hashed is the
similarity's features and, beside them, two blocks of structure: S, and P, which holds the token's
position and the gap since it last occurred. (Landmark coordinates cannot be hashed: they are
computed from the edges that are chosen here.)

A bucket is bounded by taking its latest members before the token, so a row depends on the tokens
up to its own and is the same in a stream.

B batch, T new tokens, S tokens known, H tables, M members read per bucket, C = H·M, d features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core import ops
from state_core.config import GraphConfig

STRUCTURE = ("S", "P")


class LSH(nn.Module):
    """Finds what `ops.causal_topk` finds, as far as buckets hold it."""

    planes: Tensor

    def __init__(self, config: GraphConfig, layout: tuple[str, ...], width: int) -> None:
        """width: d, of the similarity's features."""
        super().__init__()
        self.config = config
        self.blocks = [layout.index(name) for name in STRUCTURE if name in layout]
        # A researcher's rerun must get the same planes whatever the global seed.
        generator = torch.Generator().manual_seed(0)
        shape = (config.lsh_tables * config.lsh_bits, width + 4 * len(self.blocks))
        planes = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.register_buffer("planes", planes)

    @torch.no_grad()
    def codes(self, u: Tensor, semantic: Tensor) -> Tensor:
        """The bucket of each token in each table, [B,T,H] int64, for features u [B,T,d] and states
        [B,T,N,4]. In float64, so that a token falls alike however a text is cut."""
        structure = F.normalize(semantic[:, :, self.blocks].double(), dim=-1)
        scale = (self.config.lsh_structure / max(len(self.blocks), 1)) ** 0.5
        hashed = torch.cat([u.double(), scale * structure.flatten(2)], dim=-1)
        sides = (hashed @ self.planes.double().T >= 0).unflatten(-1, (-1, self.config.lsh_bits))
        return (sides * 2 ** torch.arange(sides.shape[-1], device=sides.device)).sum(-1)

    @torch.no_grad()
    def topk(
        self, u: Tensor, keys: Tensor, codes: Tensor, known: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The K most similar of each token's candidates, as `ops.causal_topk` gives them.

        u [B,T,d], codes [B,T,H] and positions [B,T] of new tokens, keys [B,S,d] and known [B,S,H]
        of all. Returns indices [B,T,K] int32, best first, −1 where there is none, and scores, −∞
        there; among equals the most recent first.
        """
        cfg = self.config
        found = members(codes, known, positions - cfg.window - 1, cfg.lsh_bucket)
        counts = (found >= 0).sum(-1, dtype=torch.int32)
        scores = ops.edge_scores(u, found, counts, keys=keys)
        scores = scores.masked_fill(found < 0, -torch.inf)
        missing = max(cfg.max_k - found.shape[-1], 0)
        found = F.pad(found, (0, missing), value=-1)
        scores = F.pad(scores, (0, missing), value=-torch.inf)
        best, order = scores.sort(dim=-1, descending=True, stable=True)
        return found.gather(-1, order)[..., : cfg.max_k], best[..., : cfg.max_k]


def members(codes: Tensor, known: Tensor, last: Tensor, size: int) -> Tensor:
    """The `size` most recent members up to position `last` [B,T] of each token's buckets, each
    once and the most recent first: [B,T,H·size] int32, −1 pads.

    codes [B,T,H]: the buckets of the tokens; known [B,S,H]: those of all tokens.
    """
    length = known.shape[1]
    place = torch.arange(length, device=known.device)[:, None]
    # A number per (bucket, position): sorted, the members of a bucket lie side by side in order.
    ranked = (known * (length + 1) + place).mT.contiguous().sort(dim=-1).values
    bound = (codes * (length + 1) + (last + 1).clamp(min=0)[..., None]).mT.contiguous()
    end = torch.searchsorted(ranked, bound)
    back = end[..., None] - 1 - torch.arange(size, device=known.device)  # [B,H,T,M]
    member = ranked.gather(-1, back.clamp(min=0).flatten(2)).view_as(back)
    same = (back >= 0) & (member // (length + 1) == codes.mT[..., None])
    found = torch.where(same, member % (length + 1), -1).transpose(1, 2).flatten(2)
    found = found.sort(dim=-1, descending=True).values
    again = found[..., 1:] == found[..., :-1]
    found[..., 1:] = found[..., 1:].masked_fill(again, -1)
    return found.sort(dim=-1, descending=True).values.to(torch.int32)
