"""Which of the chosen edges are mutual.

Shapes: T tokens, d width of the states, K neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, compare
from state_core.bench.inputs import normal

TILE = 64  # rows; the fastest of 32 … 512 on a CPU


def _inputs(shape: Shape, device: torch.device) -> dict[str, Any]:
    u = F.normalize(normal(0, device, shape["T"], shape["d"]).detach(), dim=-1)[None]
    indices, scores = ops.causal_topk(u, shape["K"])
    return {"indices": indices, "scores": scores, "u": u}


def _check(device: torch.device) -> list[Comparison]:
    inputs = _inputs({"T": 200, "d": 12, "K": 5}, device)
    ours = ops.mutual_filter(**inputs)
    trusted = {
        "naive": ops.mutual_filter(**inputs, backend="naive"),
        "torch tiles": torch_mutual(**inputs, tile=48),
    }
    return [compare(name, (ours,), (keep,)) for name, keep in trusted.items()]


def torch_mutual(indices: Tensor, scores: Tensor, u: Tensor, tile: int = TILE) -> Tensor:
    """The same recursion in row tiles of plain torch, for one text: indices, scores [1,T,K].

    An edge i → j stays if fewer than K tokens before i are nearer to j than i is: those before the
    tile are among the K best that j keeps, those within it are counted.
    """
    indices, scores, u = indices[0], scores[0], u[0]
    length, k = scores.shape
    best = scores.clone()  # a token starts with the scores of its own list
    kept = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        rows = torch.arange(start, stop, device=u.device)
        after = rows[:, None] > torch.arange(stop, device=u.device)
        near = (u[start:stop] @ u[:stop].T).masked_fill_(~after, -torch.inf)  # [tile, stop]
        chosen = indices[start:stop].long()
        target = chosen.clamp(min=0)
        own = near.gather(1, target)
        nearer = (best[target] > own[..., None]).sum(-1)
        within = near[:, target] > own  # [tile, tile, K], by the other row first
        nearer += (within & (rows[:, None] < rows)[..., None]).sum(0)
        kept.append((nearer < k) & (chosen >= 0))
        best[:stop] = torch.cat([best[:stop], near.T], dim=1).topk(k).values
    return torch.cat(kept)[None]


Case(
    name="mutual_filter",
    group="ops",
    about="the chosen edges that both ends would choose, nothing looking ahead",
    sizes=tuple({"T": t, "d": 12, "K": 12} for t in (2048, 4096, 8192)),
    quick=tuple({"T": t, "d": 12, "K": 4} for t in (64, 128)),
    inputs=_inputs,
    contenders=(
        Contender(OURS, lambda x: lambda: ops.mutual_filter(**x)),
        Contender("torch tiles", lambda x: lambda: torch_mutual(**x)),
    ),
    check=_check,
    goals=(Goal("torch tiles", least=10, at=8192),),
)
