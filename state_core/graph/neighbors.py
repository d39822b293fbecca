"""A row of the graph: sequential edges, sinks, semantic edges and their successors, each once.

B batch, T new tokens, K semantic edges at most, E edges at most.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from state_core.config import GraphConfig


class EdgeKind(IntEnum):
    """Why an edge exists. A token that could be there for two reasons has the first of these."""

    SEQUENTIAL = 0
    SEMANTIC = 1
    SUCCESSOR = 2
    SINK = 3


def max_edges(config: GraphConfig) -> int:
    """The padded width E of a row."""
    reach = config.window if config.causal else 2 * config.window
    semantic = config.max_k if config.semantic else 0
    return 1 + reach + semantic * (2 if config.successor else 1) + config.sinks


def assemble_rows(
    semantic: Tensor, positions: Tensor, config: GraphConfig, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of tokens at `positions` [B,T] with semantic neighbours [B,T,K] (−1 none).

    `length` is the number of tokens known; a causal row stays at or before its own position.
    Returns neighbors [B,T,E] int32 (−1 pads), counts [B,T] int32 and kinds [B,T,E] int8. Within a
    row: the token itself, its window from near to far, then semantic edges best first.
    """
    here = positions[..., None].to(torch.int32)
    last = here if config.causal else torch.full_like(here, length - 1)

    offsets = torch.arange(config.window + 1, device=positions.device, dtype=torch.int32)
    near = here - offsets
    if not config.causal:
        near = torch.cat([near, here + offsets[1:]], dim=-1)
    near = torch.where((near >= 0) & (near <= last), near, -1)

    def outside_window(j: Tensor) -> Tensor:
        free = (j >= 0) & (j <= last) & ((here - j).abs() > config.window)
        return torch.where(free, j, -1)

    parts = [(near, EdgeKind.SEQUENTIAL), (semantic, EdgeKind.SEMANTIC)]
    if config.successor:
        after = outside_window(torch.where(semantic >= 0, semantic + 1, -1))
        parts.append((_without(after, semantic), EdgeKind.SUCCESSOR))
    if config.sinks:
        first = torch.arange(config.sinks, device=positions.device, dtype=torch.int32)
        sinks = outside_window(first.expand(*positions.shape, -1))
        for taken, _ in parts[1:]:
            sinks = _without(sinks, taken)
        parts.append((sinks, EdgeKind.SINK))
    return _compact(parts)


def _without(j: Tensor, taken: Tensor) -> Tensor:
    """`j` [B,T,K] with what is in `taken` [B,T,M] of the same row removed."""
    return torch.where((j[..., :, None] == taken[..., None, :]).any(-1), -1, j)


def _compact(parts: list[tuple[Tensor, EdgeKind]]) -> tuple[Tensor, Tensor, Tensor]:
    neighbors = torch.cat([j for j, _ in parts], dim=-1)
    kinds = torch.cat([torch.full_like(j, kind, dtype=torch.int8) for j, kind in parts], dim=-1)
    valid = neighbors >= 0
    order = (~valid).to(torch.int8).argsort(dim=-1, stable=True)
    counts = valid.sum(-1, dtype=torch.int32)
    return neighbors.gather(-1, order), counts, kinds.gather(-1, order)
