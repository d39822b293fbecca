"""What each edge of a row is worth to a word, in shares that add up to 1: gates on the edges.

    tree = edge_shares(model, ids, position=40)
    for part in tree.parts: print(part.path, part.share)

A gate m_e scales what an edge e counts for in every softmax that it takes part in: its attention in
all layers and its vote in the pointer head. Opening all gates of the row from 0 to 1, the word's
probability goes from what it is without a vote of the row (`rest`) to p, and

    p = p(m → 0) + Σ_e ∫ ∂p/∂m_e dm

says what each edge brought: integrated gradients (arXiv 1703.01365) along edges, not inputs. It
differs from `attribute` in two ways: what an edge gives passes through all later layers, and an
edge that votes for another word, or draws attention from a better one, has a negative share.

E edges of a row, N steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.analysis.attribution import Part
from state_core.analysis.internals import find
from state_core.errors import InputError
from state_core.graph.token_graph import TokenGraph
from state_core.pipeline import SOSM

STEPS = 8  # of the integral, by the midpoint rule
CURVATURE = 4  # m = u^4: where the pointer decides, most of p is gained by gates nearly shut


def edge_shares(
    model: SOSM, ids: Tensor, position: int, token: int | None = None, steps: int = STEPS
) -> Part:
    """The shares of p(`token` after `position`) that the edges of the row have, and `rest`, when
    `model`, not in training, reads ids [1,T]. token: the likeliest if not given. InputError for
    more than one text, a position or token that is not there, or a model without a graph."""
    if ids.dim() != 2 or len(ids) != 1 or not model.config.graph.enabled:
        raise InputError("edge_shares takes one text [1,T] and a model with a graph")
    if not 0 <= position < ids.shape[1]:
        raise InputError(f"position {position} is out of range: the text has {ids.shape[1]} tokens")
    seen = ids[:, : position + 1]  # what comes later has no part in the prediction
    with torch.no_grad():
        out = model(seen, return_graph=True)
    assert out.graph is not None
    p = out.last_logits[0].double().softmax(-1)
    token = int(p.argmax()) if token is None else token
    if not 0 <= token < len(p):
        raise InputError(f"token {token} is out of range: the vocabulary has {len(p)}")
    row = out.graph.rows(0, position).neighbors.tolist()
    brought = (_integral(model, seen, token, len(row), steps) / p[token]).tolist()
    edges = [Part(f"edge to {j}", share) for j, share in zip(row, brought, strict=True)]
    return Part("p", 1.0, (Part("rest", 1 - sum(brought)), *edges))


def _integral(model: SOSM, ids: Tensor, token: int, edges: int, steps: int) -> Tensor:
    """∫ ∂p/∂m of the gates of the last row, [E]; its N points are read as a batch."""
    u = (torch.arange(steps, device=ids.device) + 0.5) / steps
    with torch.enable_grad():
        gates = u.pow(CURVATURE)[:, None].expand(-1, edges).clone().requires_grad_()

        def gate(_module: nn.Module, _given: Any, graph: TokenGraph) -> TokenGraph:
            known = graph.log_gates
            known = torch.zeros_like(graph.weights) if known is None else known
            ours = F.pad(gates.log(), (0, known.shape[-1] - edges))
            last = known[:, -1] + ours.to(known.dtype)
            return replace(graph, log_gates=torch.cat([known[:, :-1], last[:, None]], dim=1))

        hook = find(model, "graph.neighbors")[0].point.register_forward_hook(gate)
        try:
            logits = model(ids.expand(steps, -1)).last_logits
        finally:
            hook.remove()
        p = logits.double().softmax(-1)[:, token].sum()
        (slopes,) = torch.autograd.grad(p, gates)
    widths = CURVATURE * u.double().pow(CURVATURE - 1) / steps  # dm
    return widths @ slopes.double()
