"""Return probabilities of 16 steps for every token of a text's graph.

Shapes: N nodes, S steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Shape, Thunk, compare
from state_core.bench.graph_peers import tails, to_scipy
from state_core.bench.graphs import token_graph
from state_core.bench.inputs import naive

Inputs = dict[str, Any]


def _inputs(shape: Shape, device: torch.device) -> Inputs:
    """The op runs on the CPU, whatever the device."""
    return {"graph": token_graph(shape["N"], window=8, semantic=8), "steps": shape["S"]}


def _ours(inputs: Inputs) -> Thunk:
    indptr, indices = inputs["graph"]
    return lambda: ops.random_walk_pe(indptr, indices, inputs["steps"])


def pyg_walks(inputs: Inputs) -> Thunk:
    """PyG's transform: powers of a matrix, dense where the graph is small."""
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddRandomWalkPE

    graph = inputs["graph"]
    edges = torch.stack([tails(graph), graph[1].long()])
    data = Data(edge_index=edges, num_nodes=len(graph[0]) - 1)
    transform = AddRandomWalkPE(inputs["steps"], attr_name="pe")
    return lambda: transform(data).pe


def scipy_walks(inputs: Inputs) -> Thunk:
    """Powers of a sparse matrix, which soon is not sparse any more."""
    import numpy as np
    from scipy.sparse import diags_array

    adjacency = to_scipy(inputs["graph"])
    walk = (diags_array(1 / adjacency.sum(1)) @ adjacency).tocsr()

    def run() -> Tensor:
        power, found = walk, [walk.diagonal()]
        for _ in range(inputs["steps"] - 1):
            power = power @ walk
            found.append(power.diagonal())
        return torch.from_numpy(np.stack(found, axis=1))

    return run


def _check(device: torch.device) -> list[Comparison]:
    inputs = _inputs({"N": 200, "S": 8}, device)
    ours: Any = _ours(inputs)()
    checks = [compare("naive", (ours,), (naive(ops.random_walk_pe)(*inputs["graph"], 8),), 1e-5)]
    for peer in _PEERS:
        if peer.missing(device) is None:
            theirs: Any = peer.prepare(inputs)()
            checks.append(compare(peer.name, (ours,), (theirs,), 1e-5))
    return checks


_PEERS = (
    Contender("pyg", pyg_walks, "torch_geometric", most=2000),
    Contender("scipy", scipy_walks, "scipy", most=2000),
)

Case(
    name="random_walk_pe",
    group="ops",
    about="return probabilities of 16 steps, exact, in a text's graph",
    sizes=tuple({"N": n, "S": 16} for n in (500, 1000, 2000, 8000)),
    quick=tuple({"N": n, "S": 4} for n in (60, 120)),
    inputs=_inputs,
    contenders=(Contender(OURS, _ours), *_PEERS),
    check=_check,
    axis="N",
)
