"""Reference: gather the keys of all edges, multiply, sum."""

from __future__ import annotations

from torch import Tensor

from state_core.ops.graph_memo import check_edges, edges_present


def edge_scores(u: Tensor, neighbors: Tensor, counts: Tensor, keys: Tensor, blocks: int) -> Tensor:
    check_edges(neighbors, counts, keys.shape[1])
    batch, rows, width = neighbors.shape
    real = edges_present(neighbors, counts)
    target = neighbors.where(real, 0).long()
    if target.numel() == 0 or keys.shape[1] == 0:
        return (u.sum() + keys.sum()) * 0 + u.new_zeros(batch, rows, width, blocks)
    at = target.view(batch, rows * width, 1).expand(-1, -1, keys.shape[2])
    chosen = keys.gather(1, at).view(batch, rows, width, -1)
    terms = (u[:, :, None, :] * chosen).unflatten(-1, (blocks, -1)).sum(-1)
    return terms.where(real[..., None], 0.0)
