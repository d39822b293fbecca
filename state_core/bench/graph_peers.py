"""Graphs as the peers' own objects, built before anything is timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from state_core.bench.graphs import Graph


def tails(graph: Graph) -> Tensor:
    """Where each arc starts, [E] int64."""
    return torch.arange(len(graph[0]) - 1).repeat_interleave(graph[0].diff())


def to_scipy(graph: Graph) -> Any:
    """A sparse adjacency matrix, ones in float64."""
    from scipy.sparse import csr_array

    indptr, indices = (x.numpy() for x in graph)
    nodes = len(indptr) - 1
    return csr_array((torch.ones(len(indices)).double().numpy(), indices, indptr), (nodes, nodes))


def to_igraph(graph: Graph) -> Any:
    """An undirected igraph.Graph."""
    from igraph import Graph as IGraph

    return IGraph(n=len(graph[0]) - 1, edges=_edges(graph).numpy())


def to_networkit(graph: Graph) -> Any:
    """An undirected networkit.Graph. It will be worked on by as many threads as torch has."""
    import networkit

    networkit.setNumberOfThreads(torch.get_num_threads())
    low, high = _edges(graph).T.contiguous().numpy()
    weights = torch.ones(len(low)).double().numpy()
    nodes = len(graph[0]) - 1
    return networkit.GraphFromCoo((weights, (low, high)), n=nodes, weighted=False, directed=False)


def to_networkx(graph: Graph) -> Any:
    """An undirected networkx.Graph."""
    from networkx import Graph as XGraph

    other = XGraph()
    other.add_nodes_from(range(len(graph[0]) - 1))
    other.add_edges_from(_edges(graph).tolist())
    return other


def _edges(graph: Graph) -> Tensor:
    """Each edge once, [edges, 2] int64."""
    arcs = torch.stack([tails(graph), graph[1].long()], dim=1)
    return arcs[arcs[:, 0] < arcs[:, 1]]
