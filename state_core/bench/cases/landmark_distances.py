"""Distances from 64 landmarks, on three kinds of graphs.

Shapes: N nodes, L landmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, Thunk, compare
from state_core.bench.graph_peers import to_igraph, to_networkit, to_scipy
from state_core.bench.graphs import Graph, path_graph, random_graph, token_graph
from state_core.bench.inputs import naive

Inputs = dict[str, Any]
LANDMARKS = 64


def _inputs(graph: Callable[[int], Graph]) -> Callable[[Shape, torch.device], Inputs]:
    """The op runs on the CPU, whatever the device."""

    def build(shape: Shape, device: torch.device) -> Inputs:
        nodes, count = shape["N"], shape["L"]
        return {"graph": graph(nodes), "landmarks": torch.arange(count) * nodes // count}

    return build


def _ours(inputs: Inputs) -> Thunk:
    indptr, indices = inputs["graph"]
    return lambda: ops.landmark_distances(indptr, indices, inputs["landmarks"])


def scipy_hops(inputs: Inputs) -> Thunk:
    """Dijkstra's algorithm in unit steps: SciPy's quickest for few sources."""
    from scipy.sparse.csgraph import dijkstra

    matrix, sources = to_scipy(inputs["graph"]), inputs["landmarks"].numpy()
    return lambda: dijkstra(matrix, indices=sources, unweighted=True)


def igraph_hops(inputs: Inputs) -> Thunk:
    """A breadth-first search a landmark."""
    graph, sources = to_igraph(inputs["graph"]), inputs["landmarks"].tolist()
    return lambda: graph.distances(source=sources)


def networkit_hops(inputs: Inputs) -> Thunk:
    """A breadth-first search a landmark, in parallel: networkit's quickest for few sources."""
    from networkit.distance import SPSP

    graph, sources = to_networkit(inputs["graph"]), inputs["landmarks"].tolist()

    def run() -> Any:
        return SPSP(graph, sources).run().getDistances(asarray=True)

    return run


def _hops(found: Any) -> Tensor:
    """A peer's [L, N] as ours [N, L]: what is not reached is infinite, or a very large number."""
    table = torch.as_tensor(found).double().T
    return table.where(table < 1e9, -1)


def _check(graph: Callable[[int], Graph]) -> Callable[[torch.device], list[Comparison]]:
    def check(device: torch.device) -> list[Comparison]:
        inputs = _inputs(graph)({"N": 300, "L": 70}, device)
        ours: Any = _ours(inputs)()
        plain = naive(ops.landmark_distances)(*inputs["graph"], inputs["landmarks"])
        checks = [compare("naive", (ours,), (plain,), 0.0)]
        for contender in _PEERS:
            if contender.missing(device) is None:
                theirs = _hops(contender.prepare(inputs)())
                checks.append(compare(contender.name, (ours,), (theirs,), 0.0))
        return checks

    return check


_PEERS = (
    Contender("scipy", scipy_hops, "scipy", most=100_000),
    Contender("igraph", igraph_hops, "igraph", most=100_000),
    Contender("networkit", networkit_hops, "networkit", most=100_000),
)


def _declare(
    name: str, about: str, graph: Callable[[int], Graph], largest: tuple[int, ...], least: float
) -> None:
    Case(
        name=name,
        group="ops",
        about=about,
        sizes=tuple({"N": n, "L": LANDMARKS} for n in (10_000, 100_000, *largest)),
        quick=tuple({"N": n, "L": 16} for n in (200, 400)),
        inputs=_inputs(graph),
        contenders=(Contender(OURS, _ours), *_PEERS),
        check=_check(graph),
        axis="N",
        goals=tuple(Goal(peer.name, least=least, at=100_000) for peer in _PEERS),
    )


_declare(
    "landmark_distances",
    "hops from 64 landmarks, in a random graph of 16 arcs a node",
    lambda nodes: random_graph(nodes, 16),
    (1_000_000,),
    30,
)
_declare(
    "landmark_distances_tokens",
    "hops from 64 landmarks, in a text's graph: 4 tokens back and 4 anywhere before",
    token_graph,
    (1_000_000,),
    30,
)
_declare(
    "landmark_distances_path",
    "hops from 64 landmarks along a line, a level for every node",
    path_graph,
    (1_000_000,),
    1,
)
