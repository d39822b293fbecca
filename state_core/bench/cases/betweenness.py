"""Exact betweenness of every token of a text's graph, on one thread.

Shapes: N nodes.
"""

from __future__ import annotations

from typing import Any

import torch

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, Thunk, compare
from state_core.bench.graph_peers import to_igraph, to_networkit, to_networkx
from state_core.bench.graphs import Graph, token_graph
from state_core.bench.inputs import naive

TOLERANCE = 1e-9


def _inputs(shape: Shape, device: torch.device) -> Graph:
    """The op runs on the CPU, whatever the device."""
    return token_graph(shape["N"], window=8, semantic=8, sinks=shape["sinks"])


def _ours(graph: Graph) -> Thunk:
    return _on_one_thread(lambda: ops.betweenness(*graph))


def _on_one_thread(call: Thunk) -> Thunk:
    def run() -> object:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(threads)

    return run


def networkit_betweenness(graph: Graph) -> Thunk:
    """Normalised scores."""
    import networkit

    other = to_networkit(graph)

    def run() -> Any:
        networkit.setNumberOfThreads(1)
        return networkit.centrality.Betweenness(other, normalized=True).run().scores()

    return run


def igraph_betweenness(graph: Graph) -> Thunk:
    """Scores that count each unordered pair; igraph knows one thread."""
    return to_igraph(graph).betweenness


def networkx_betweenness(graph: Graph) -> Thunk:
    """Normalised scores."""
    import networkx

    other = to_networkx(graph)
    return lambda: list(networkx.betweenness_centrality(other).values())


def _check(device: torch.device) -> list[Comparison]:
    checks = []
    for sinks in (0, 4):
        graph = _inputs({"N": 150, "sinks": sinks}, device)
        ours = ops.betweenness(*graph)
        checks.append(compare("naive", (ours,), (naive(ops.betweenness)(*graph),), TOLERANCE))
        pairs = (150 - 1) * (150 - 2)
        for peer in _PEERS:
            if peer.missing(device) is None:
                scores: Any = peer.prepare(graph)()
                theirs = torch.tensor(scores, dtype=torch.float64)
                theirs = theirs * 2 / pairs if peer.name == "igraph" else theirs
                checks.append(compare(peer.name, (ours,), (theirs,), TOLERANCE))
    return checks


_PEERS = (
    Contender("networkit", networkit_betweenness, "networkit"),
    Contender("igraph", igraph_betweenness, "igraph"),
    Contender("networkx", networkx_betweenness, "networkx", most=500),
)

Case(
    name="betweenness",
    group="ops",
    about="exact betweenness of a text's graph, 8 tokens back and 8 before, on one thread",
    sizes=tuple({"N": n, "sinks": sinks} for sinks in (0, 4) for n in (500, 1000, 2000)),
    quick=tuple({"N": n, "sinks": 4} for n in (60, 120)),
    inputs=_inputs,
    contenders=(Contender(OURS, _ours), *_PEERS),
    check=_check,
    axis="N",
    goals=(Goal("networkit", least=3, at=2000),),
)
