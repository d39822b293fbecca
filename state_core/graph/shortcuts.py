"""Shortcuts: deterministic edges across the text, and the rivals that they are measured against.

betweenness  to the bridges of the finished prefix: the tokens that most shortest paths run through
             (Brandes 2001; from up to 64 pivots, Brandes & Pich 2007), chosen anew at each border
random       to earlier tokens drawn evenly, for each token anew, as BigBird does (arXiv 2007.14062)
fibonacci    a Fibonacci number of tokens back, the smallest beyond the window

B batch, T new tokens, K shortcuts of a token, N tokens of a graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core import ops
from state_core.config import GraphConfig

PIVOTS = 64
# Two nodes whose scores differ by less are equally good, whatever order a backend sums in.
STEPS = 1 << 30
_MIX = 0x5851F42D4C957F2D


def best_bridges(indptr: Tensor, indices: Tensor, count: int) -> Tensor:
    """The `count` nodes that most shortest paths run through, best first: [count] int32, −1 pads.

    Of equally good ones the most recent; a node that no path runs through is no bridge.
    """
    nodes = len(indptr) - 1
    scores = ops.betweenness(indptr, indices, min(PIVOTS, nodes) if nodes else None)
    steps = (scores * STEPS).round().long()
    rank = torch.where(steps > 0, steps * nodes + torch.arange(nodes), -1)
    best = rank.topk(min(count, nodes))
    found = torch.full((count,), -1, dtype=torch.int32)
    found[: len(best.indices)] = torch.where(best.values >= 0, best.indices, -1).int()
    return found


def random_targets(positions: Tensor, config: GraphConfig) -> Tensor:
    """Earlier tokens outside the window for tokens at `positions` [B,T], drawn by a hash of the
    position and so the same in every text and run: [B,T,K] int32, −1 where there is none."""
    draw = torch.arange(config.shortcut_count, device=positions.device)
    x = positions[..., None] * config.shortcut_count + draw + 1
    for _ in range(3):
        x = (x ^ ((x >> 29) & 0x7FFFFFFFF)) * _MIX
    free = positions[..., None] - config.window
    targets = torch.where(free > 0, ((x >> 33) & 0x7FFFFFFF) % free.clamp(min=1), -1)
    earlier = torch.ones(len(draw), len(draw), dtype=torch.bool, device=x.device).tril(-1)
    repeats = ((targets[..., :, None] == targets[..., None, :]) & earlier).any(-1)
    return torch.where(repeats, -1, targets).int()


def fibonacci_targets(positions: Tensor, config: GraphConfig) -> Tensor:
    """A Fibonacci number back from tokens at `positions` [B,T]: [B,T,K] int32, −1 before the
    text."""
    offsets: list[int] = []
    a, b = 1, 2
    while len(offsets) < config.shortcut_count:
        if a > config.window:
            offsets.append(a)
        a, b = b, a + b
    targets = positions[..., None] - torch.tensor(offsets, device=positions.device)
    return targets.clamp(min=-1).int()
