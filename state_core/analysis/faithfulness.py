"""Faithfulness: does an explanation name the edges that a prediction hangs on?

A method scores the edges of the row that a word is predicted from. Then the model itself is asked,
with edges taken away or kept in that order:

    deletion    p of the word when the n best edges are cut: a good explanation falls fast
    insertion   p when only the n best are left: a good one rises fast
    fid+, fid−  p less what remains of it without, and with only, the explained edges (GraphFramEx,
                arXiv 2206.09677): large and small for a good explanation

Methods are compared on the same predictions at equal size, with random scores and raw attention
beside ours.

P predictions, E edges of a row, N = E + 1 sizes, from 0 to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from state_core.analysis.attribution import attribute, token_shares
from state_core.analysis.edge_gates import edge_shares
from state_core.analysis.internals import find, run_with_cache
from state_core.errors import InputError
from state_core.graph.token_graph import TokenGraph
from state_core.pipeline import SOSM

Scores = Callable[[SOSM, Tensor, int, int], Tensor]
"""(model, ids [1,T], position, token) → a score for each edge of the row, [E]."""


@dataclass(frozen=True)
class Curve:
    """One method over all predictions; p is relative to that of the whole row, and edges come as
    shares of the row: `at` [N] from 0 to 1.

    deletion, insertion [N]: means; each_* [P], of each prediction: area under its curve, and fid+
    and fid− of the explained `size` edges.
    """

    method: str
    at: Tensor
    deletion: Tensor
    insertion: Tensor
    each_deletion: Tensor
    each_insertion: Tensor
    each_fid_plus: Tensor
    each_fid_minus: Tensor

    @property
    def deletion_area(self) -> float:
        """Lower is better."""
        return float(self.each_deletion.mean())

    @property
    def insertion_area(self) -> float:
        """Higher is better."""
        return float(self.each_insertion.mean())

    @property
    def fid_plus(self) -> float:
        """Higher is better."""
        return float(self.each_fid_plus.mean())

    @property
    def fid_minus(self) -> float:
        """Lower is better."""
        return float(self.each_fid_minus.mean())


def by_attribution(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Ours: all that an edge gives to the word, by votes and through every layer."""
    shares = token_shares(attribute(model, ids, position, token))
    return torch.tensor([shares.get(j, 0.0) for j in row_of(model, ids, position)])


def by_gates(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Ours: what an edge brings when all gates of the row are opened."""
    return torch.tensor([edge.share for edge in edge_shares(model, ids, position, token).parts[1:]])


def by_attention(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Raw attention: the mean over layers and heads of the share that an edge gets."""
    with torch.no_grad():
        _, cache = run_with_cache(model, ids, "blocks.*.attn.pattern")
    count = len(row_of(model, ids, position))
    return torch.stack([p[0, :, position, :count].mean(0) for p in cache.values()]).mean(0)


def at_random(seed: int) -> Scores:
    """Scores that know nothing."""
    generator = torch.Generator().manual_seed(seed)

    def scores(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
        return torch.rand(len(row_of(model, ids, position)), generator=generator)

    return scores


def methods(seed: int = 0) -> dict[str, Scores]:
    """Ours beside what any explanation should beat; `peers.peers()` are more."""
    return {
        "edge gates": by_gates,
        "attribution": by_attribution,
        "raw attention": by_attention,
        "random": at_random(seed),
    }


@torch.no_grad()
def faithfulness(
    model: SOSM,
    ids: Tensor,
    positions: Sequence[int],
    chosen: Mapping[str, Scores] | None = None,
    size: int = 3,
    points: int = 11,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Curve]:
    """Score methods on the likeliest word after each position of one text, ids [1,T].

    size: edges of an explanation, for fid+ and fid−; points: sizes on a curve; progress: told of
    each prediction that is measured, how many are and will be. InputError for more than one text,
    no position, or a model without a graph.
    """
    if ids.dim() != 2 or len(ids) != 1 or not positions or not model.config.graph.enabled:
        raise InputError("faithfulness takes one text [1,T], positions in it, and a model's graph")
    at = torch.linspace(0, 1, points)
    logits = model(ids).logits[0]
    curves = []
    asked = chosen or methods()
    for n, (name, scores) in enumerate(asked.items()):
        rows = []
        for m, position in enumerate(positions):
            progress(n * len(positions) + m, len(asked) * len(positions))
            token = int(logits[position].argmax())
            order = scores(model, ids, position, token).argsort(descending=True)
            rows.append(_measure(model, ids, position, token, order, at, size))
        deletion, insertion, fids = (torch.stack(part) for part in zip(*rows, strict=True))
        areas = (torch.trapezoid(part, at) for part in (deletion, insertion))
        means = deletion.mean(0), insertion.mean(0)
        curves.append(Curve(name, at, *means, *areas, *fids.unbind(-1)))
    return curves


def _measure(
    model: SOSM,
    ids: Tensor,
    position: int,
    token: int,
    order: Tensor,
    at: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Deletion and insertion [N], and fid+ and fid−, of one prediction, relative to its p."""
    edges = len(order)
    counts = [*(at * edges).round().long().tolist(), min(size, edges)]
    rank = order.argsort()
    without = torch.stack([rank >= n for n in counts])
    keep = torch.cat([torch.ones(1, edges, dtype=torch.bool), without, ~without])
    p = _probabilities(model, ids, position, token, keep)
    relative = (p[1:] / p[0]).float()
    deletion, insertion = relative[: len(counts)], relative[len(counts) :]
    return deletion[:-1], insertion[:-1], 1 - torch.stack([deletion[-1], insertion[-1]])


def _probabilities(model: SOSM, ids: Tensor, position: int, token: int, keep: Tensor) -> Tensor:
    """p(token after position) with the row's edges that each line of `keep` [N,E] leaves, [N]."""

    def thin(_module: nn.Module, _given: Any, graph: TokenGraph) -> TokenGraph:
        left = torch.ones_like(graph.neighbors, dtype=torch.bool)
        left[:, position, : keep.shape[1]] = keep
        width = torch.arange(left.shape[-1])
        return graph.subgraph(keep=left[width < graph.counts[..., None]])

    # What comes later has no part in the prediction.
    seen = ids[:, : position + 1].expand(len(keep), -1)
    hook = find(model, "graph.neighbors")[0].point.register_forward_hook(thin)
    try:
        logits = model(seen).last_logits
    finally:
        hook.remove()
    return logits.double().softmax(-1)[:, token]


def row_of(model: SOSM, ids: Tensor, position: int) -> list[int]:
    """What a token looks at, in the order of its edges: what scores are of."""
    with torch.no_grad():
        graph = model(ids[:, : position + 1], return_graph=True).graph
    assert graph is not None
    found: list[int] = graph.rows(0, position).neighbors.tolist()
    return found
