"""Graphs to measure on, undirected and in compressed rows, the same for the same seed."""

from __future__ import annotations

import torch
from torch import Tensor

Graph = tuple[Tensor, Tensor]
"""indptr [N + 1] int64 and indices [E] int32; each edge is stored in both directions."""


def undirected(nodes: int, tails: Tensor, heads: Tensor) -> Graph:
    """The graph of these edges, without repeated ones and loops."""
    low, high = torch.minimum(tails, heads), torch.maximum(tails, heads)
    edge = torch.unique((low * nodes + high)[low < high])
    low, high = edge // nodes, edge % nodes
    return directed(nodes, torch.cat([low, high]), torch.cat([high, low]))


def directed(nodes: int, tails: Tensor, heads: Tensor) -> Graph:
    """The graph of these arcs, as often as they are given; those of a node in ascending order."""
    order = torch.argsort(tails * nodes + heads)
    indptr = torch.zeros(nodes + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(tails, minlength=nodes).cumsum(0)
    return indptr, heads[order].int()


def random_graph(nodes: int, degree: int, seed: int = 0) -> Graph:
    """Edges between nodes drawn evenly, `degree` arcs a node (a few less where an edge repeats)."""
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randint(nodes, (nodes * degree // 2,), generator=generator)
    return undirected(nodes, torch.arange(nodes).repeat_interleave(degree // 2), heads)


def path_graph(nodes: int) -> Graph:
    """A line: node i beside i - 1 and i + 1."""
    return undirected(nodes, torch.arange(nodes - 1), torch.arange(1, nodes))


def token_graph(nodes: int, window: int = 4, semantic: int = 4, sinks: int = 0) -> Graph:
    """What a text's graph looks like: every token beside the last `window` and the first `sinks`
    tokens, and `semantic` edges to tokens drawn evenly from further back.
    """
    generator = torch.Generator().manual_seed(0)
    token = torch.arange(nodes)[:, None]
    near = token - torch.arange(1, window + 1)
    draw = torch.rand(nodes, semantic, generator=generator)
    far = (draw * (token - window).clamp(min=0)).long().where(token > window, -1)
    first = torch.arange(sinks).expand(nodes, sinks)
    heads = torch.cat([near, far, first], dim=1)
    tails, heads = token.expand_as(heads)[heads >= 0], heads[heads >= 0]
    return undirected(nodes, tails, heads)
