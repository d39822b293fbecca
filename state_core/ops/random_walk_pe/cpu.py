"""Return probabilities on the CPU: Numba kernels as a torch custom op."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.ops.numba_threads import match_torch_threads
from state_core.ops.random_walk_pe import kernels
from state_core.ops.turned_arcs import turned_arcs

SMALL = 1 << 10  # arcs that are not worth a second thread


@torch.library.custom_op("state_core::random_walk_pe", mutates_args=(), device_types="cpu")
def random_walk_pe(indptr: Tensor, indices: Tensor, steps: int, weights: Tensor) -> Tensor:
    """See `state_core.ops.random_walk_pe`."""
    nodes = len(indptr) - 1
    threads = torch.get_num_threads() if len(indices) > SMALL else 1
    match_torch_threads(threads)
    tails = torch.repeat_interleave(torch.arange(nodes), indptr.diff())
    # In float64, where the order of a sum leaves no trace in float32.
    degree = torch.zeros(nodes, dtype=torch.float64).index_add_(0, tails, weights.double())
    share = (1 / degree).where(degree > 0, 0)
    probability = (weights * share[tails]).to(weights.dtype)
    out = weights.new_empty(nodes, steps)

    graph = indptr.contiguous().numpy(), indices.contiguous().numpy()
    in_ptr, in_indices, in_weights = turned_arcs(*graph, weights.contiguous().numpy())
    if in_ptr is graph[0]:
        sums = (x.to(weights.dtype).numpy() for x in (degree, share))
        kernels.undirected(*graph, probability.numpy(), *sums, out.numpy(), threads)
        return out
    turned = torch.from_numpy(in_indices).long(), torch.from_numpy(in_weights)
    in_probability = (turned[1] * share[turned[0]]).to(weights.dtype)
    kernels.directed(
        *graph, probability.numpy(), in_ptr, in_indices, in_probability.numpy(),
        weights.new_ones(nodes).numpy(), out.numpy(), threads,
    )  # fmt: skip
    return out


@random_walk_pe.register_fake
def _(indptr: Tensor, indices: Tensor, steps: int, weights: Tensor) -> Tensor:
    return weights.new_empty(indptr.shape[0] - 1, steps)
