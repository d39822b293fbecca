"""The edges of one text as arrays, which figures choose from.

M edges, N blocks of the state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph


@dataclass(frozen=True)
class EdgeList:
    """source, target, kind [M] int64; weight, gate [M]; parts [M,N], what each block of `layout`
    gives to the weight."""

    layout: tuple[str, ...]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    kind: NDArray[np.int64]
    weight: NDArray[np.float64]
    gate: NDArray[np.float64]
    parts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.source)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> EdgeList:
        """Some of the edges: those of a mask, or those of numbers, in their order."""
        return EdgeList(
            self.layout,
            source=self.source[chosen],
            target=self.target[chosen],
            kind=self.kind[chosen],
            weight=self.weight[chosen],
            gate=self.gate[chosen],
            parts=self.parts[chosen],
        )

    def of_kind(self, *kinds: EdgeKind) -> EdgeList:
        return self.where(np.isin(self.kind, [int(kind) for kind in kinds]))

    def rank(self) -> NDArray[np.int64]:
        """[M]: each edge's place by weight among those of its token and kind, from 0."""
        group = self.source * len(EdgeKind) + self.kind
        order = np.lexsort((-self.weight, group))
        grouped = group[order]
        place = np.arange(len(order))
        starts = np.r_[True, grouped[1:] != grouped[:-1]][: len(order)]
        rank = np.empty(len(order), np.int64)
        rank[order] = place - np.maximum.accumulate(np.where(starts, place, 0))
        return rank


def edges_of(graph: TokenGraph, b: int) -> EdgeList:
    """The edges of text b. InputError if there is no such text."""
    if not 0 <= b < graph.batch_size:
        raise InputError(f"text {b} is out of range: the graph has {graph.batch_size} texts")
    source, target = graph.edge_index
    mine = source // graph.num_nodes == b
    ends = (source[mine] % graph.num_nodes, target[mine] % graph.num_nodes, graph.kind[mine].long())
    values = (graph.weight[mine], graph.gate[mine], graph.contributions[mine])
    return EdgeList(
        graph.layout,
        *(column.cpu().numpy() for column in ends),
        *(column.detach().double().cpu().numpy() for column in values),
    )
