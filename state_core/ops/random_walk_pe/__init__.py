"""How likely a random walk is to be back where it started (Dwivedi et al. 2022, arXiv 2110.07875).

    pe[i, k - 1] = (P^k)_ii,   P_uv = w_uv / (sum of the weights of u's arcs)

An encoding of where a node lies that needs no landmarks and no eigenvectors.

Shapes: N nodes, E arcs, S steps.
"""

from __future__ import annotations

import torch

from state_core.errors import InputError
from state_core.ops.backend import Backend, Op
from state_core.ops.csr import check_graph

OP = Op(
    "random_walk_pe",
    {
        "cpu": Backend("state_core.ops.random_walk_pe.cpu", ("cpu",), ("numba",)),
        "naive": Backend("state_core.ops.random_walk_pe.naive", ("cpu",)),
    },
)


def random_walk_pe(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    steps: int,
    weights: torch.Tensor | None = None,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Return probabilities of the random walk after 1, 2, … steps, exactly.

    indptr:  [N + 1] int64 or int32. Row u's arcs are indices[indptr[u] : indptr[u + 1]].
    indices: [E] int32 in 0 … N - 1. An undirected graph stores each edge in both directions; with
             arcs of one direction the walk follows them, and ends where none leads on. An arc that
             is stored twice is twice as likely.
    steps:   S, at least 1.
    weights: [E] float32 or float64, finite and at least 0, or None for equal ones. Not
             differentiated.
    backend: "auto", "cpu" or "naive".

    Returns [N, S] in the weights' dtype, float32 without weights; zeros for a node without arcs.
    The same bits for any number of threads.

    Linear in E is what one node costs; all together cost O(S sum over i of the arcs within S / 2
    steps of i). That is linear in N where balls stay small (paths, lattices, text windows), and
    N E S / 2 where a few steps reach everything (expanders). Memory is O(N) a thread.

    Raises InputError for a malformed graph, weights or steps; BackendError for tensors that are not
    on the CPU.
    """
    run = OP.select(backend, indices.device)
    check_graph("random_walk_pe", indptr, indices, weights)
    if steps < 1:
        raise InputError(f"random_walk_pe expects at least 1 step, got {steps}")
    arcs = torch.ones(len(indices), dtype=torch.float32) if weights is None else weights.detach()
    found: torch.Tensor = run(indptr.long(), indices, steps, arcs)
    return found
