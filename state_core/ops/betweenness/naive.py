"""The reference: Brandes' algorithm as published, one source and one arc at a time."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from state_core.errors import InputError


def betweenness(indptr: Tensor, indices: Tensor, sources: Tensor) -> Tensor:
    """The sum of each node's dependencies over the sources."""
    rows = [row.tolist() for row in indices.tensor_split(indptr[1:-1])]
    scores = [0.0] * len(rows)
    for source in sources.tolist():
        _add_dependencies(rows, source, scores)
    return torch.tensor(scores, dtype=torch.float64)


def _add_dependencies(rows: list[list[int]], source: int, scores: list[float]) -> None:
    distance, paths = [-1] * len(rows), [0.0] * len(rows)
    distance[source], paths[source] = 0, 1.0
    order, queue = [], deque([source])
    while queue:
        u = queue.popleft()
        order.append(u)
        for v in rows[u]:
            if distance[v] < 0:
                distance[v] = distance[u] + 1
                queue.append(v)
            if distance[v] == distance[u] + 1:
                paths[v] += paths[u]
    if not all(map(math.isfinite, paths)):
        raise InputError("betweenness: more shortest paths than float64 can count")
    dependency = [0.0] * len(rows)
    for u in reversed(order):
        for v in rows[u]:
            if distance[v] == distance[u] + 1:
                dependency[u] += paths[u] / paths[v] * (1 + dependency[v])
        if u != source:
            scores[u] += dependency[u]
