"""Tokens in parallel; each walks in its own prefix, which the readers' order gives for nothing.

A token's edges lead to earlier tokens and never change; those that lead to it are kept by reader,
ascending, so that its neighbours as of token i are its own edges and its readers up to i. On an
undirected graph half the steps are enough:

    (P^(a+b))_ii = sum over j of (P^a)_ij (P^b)_ij d_i / d_j

B batch, T new tokens, S tokens known, E edges of a row; arrays of a walk [S], zero but in a ball
around the token, and only that is walked and cleared.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.reverse_edges import reverse_edges


@torch.library.custom_op("state_core::causal_walk_pe", mutates_args=(), device_types="cpu")
def causal_walk_pe(neighbors: Tensor, counts: Tensor, positions: Tensor, steps: int) -> Tensor:
    """See `state_core.ops.causal_walk_pe`."""
    found = torch.zeros(*positions.shape, steps, dtype=torch.float64)
    if not found.numel():
        return found
    starts, edges = reverse_edges(neighbors, counts, neighbors.shape[1])
    threads = min(torch.get_num_threads(), positions.numel())
    match_torch_threads(threads)
    _walks(
        neighbors.contiguous().numpy(),
        counts.contiguous().numpy(),
        starts.numpy(),
        edges.numpy(),
        positions.contiguous().numpy(),
        found.numpy(),
        threads,
    )
    return found


@causal_walk_pe.register_fake
def _(neighbors: Tensor, counts: Tensor, positions: Tensor, steps: int) -> Tensor:
    return neighbors.new_empty((*positions.shape, steps), dtype=torch.float64)


@njit(parallel=True, cache=True)
def _walks(neighbors, counts, starts, edges, positions, out, threads):
    batch, known, width = neighbors.shape
    rows = positions.shape[1]
    for thread in prange(threads):
        here, there = np.zeros(known), np.zeros(known)
        ball, inside = np.empty(known, np.int32), np.zeros(known, np.bool_)
        for task in range(thread, batch * rows, threads):
            b, t = task // rows, task % rows
            graph = (neighbors[b], counts[b], starts[b], edges[b], positions[b, t], width)
            _walk(graph, here, there, ball, inside, out[b, t])


@njit(cache=True)
def _walk(graph, here, there, ball, inside, out):
    """Fills out [steps]: here is the walk after as many steps as there, or after one fewer."""
    start = graph[4]
    own = _degree(graph, start)
    if own == 0:
        return
    here[start], ball[0], inside[start], end = 1.0, start, True, 1
    for step in range(out.size):
        if step % 2 == 0:
            if step:
                here, there = there, here
                for n in range(end):
                    there[ball[n]] = 0.0
            end = _spread(graph, here, there, ball, inside, end)
        met = 0.0
        for n in range(end):
            j = ball[n]
            both = there[j] * (here[j] if step % 2 == 0 else there[j])
            if both > 0.0:
                met += both / _degree(graph, j)
        out[step] = met * own
    for n in range(end):
        here[ball[n]], there[ball[n]], inside[ball[n]] = 0.0, 0.0, False


@njit(cache=True)
def _spread(graph, here, there, ball, inside, end):
    """One step from `here` to `there`; tokens reached join the ball, whose new size is returned."""
    neighbors, counts, starts, edges, now, width = graph
    grown = end
    for n in range(end):
        u = ball[n]
        if here[u] == 0.0:
            continue
        share = here[u] / _degree(graph, u)
        for e in range(counts[u]):
            grown = _arrive(neighbors[u, e], share, there, ball, inside, grown)
        for e in range(starts[u], starts[u + 1]):
            reader = edges[e] // width
            if reader > now:
                break
            grown = _arrive(reader, share, there, ball, inside, grown)
    return grown


@njit(cache=True)
def _arrive(v, share, there, ball, inside, end):
    there[v] += share
    if not inside[v]:
        inside[v], ball[end] = True, v
        end += 1
    return end


@njit(cache=True)
def _degree(graph, u):
    """Edges of u among the tokens read so far: its own, and those of readers up to now."""
    _, counts, starts, edges, now, width = graph
    low, high = starts[u], starts[u + 1]
    while low < high:
        middle = (low + high) // 2
        if edges[middle] // width <= now:
            low = middle + 1
        else:
            high = middle
    return counts[u] + low - starts[u]
