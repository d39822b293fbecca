"""A row of the graph: sequential and semantic edges, successors, those of a registered rule,
shortcuts and sinks, each once.

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
    SHORTCUT = 4
    RULE = 5


Part = tuple[Tensor, EdgeKind]
"""Edges of one kind: targets [B,T,K] int32, −1 where there is none."""


def kind_count(config: GraphConfig) -> int:
    """How many kinds parameters that differ by kind tell apart: no more than the graph can have."""
    if config.rule != "none":
        return EdgeKind.RULE + 1
    return EdgeKind.SHORTCUT + 1 if config.shortcuts != "none" else EdgeKind.SINK + 1


def own_edges(
    semantic: Tensor,
    ruled: Tensor | None,
    positions: Tensor,
    config: GraphConfig,
    length: int,
) -> list[Part]:
    """What the text itself says of tokens at `positions` [B,T]: the token and its window from near
    to far, semantic neighbours [B,T,K] (−1 none) best first, their successors, and the targets of
    a registered rule, [B,T,M].

    `length` is the number of tokens known; a causal row stays at or before its own position.
    """
    here = positions[..., None].to(torch.int32)
    last = _last(here, config, length)
    offsets = torch.arange(config.window + 1, device=positions.device, dtype=torch.int32)
    near = here - offsets
    if not config.causal:
        near = torch.cat([near, here + offsets[1:]], dim=-1)
    near = torch.where((near >= 0) & (near <= last), near, -1)

    parts = [(near, EdgeKind.SEQUENTIAL), (semantic, EdgeKind.SEMANTIC)]
    if config.successor:
        after = _outside_window(torch.where(semantic >= 0, semantic + 1, -1), here, last, config)
        parts.append((_without(after, semantic), EdgeKind.SUCCESSOR))
    if ruled is not None:
        ruled = _each_once(_outside_window(ruled, here, last, config))
        for taken, _ in parts[1:]:
            ruled = _without(ruled, taken)
        parts.append((ruled, EdgeKind.RULE))
    return parts


def assemble_rows(
    parts: list[Part],
    shortcuts: Tensor | None,
    positions: Tensor,
    config: GraphConfig,
    length: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of `own_edges`, then shortcuts [B,T,K] (−1 none) and sinks, no token twice.

    Returns neighbors [B,T,E] int32 (−1 pads), counts [B,T] int32 and kinds [B,T,E] int8.
    """
    here = positions[..., None].to(torch.int32)
    last = _last(here, config, length)
    added = []
    if shortcuts is not None:
        added.append((shortcuts, EdgeKind.SHORTCUT))
    if config.sinks:
        first = torch.arange(config.sinks, device=positions.device, dtype=torch.int32)
        added.append((first.expand(*positions.shape, -1), EdgeKind.SINK))
    parts = list(parts)
    for targets, kind in added:
        targets = _outside_window(targets, here, last, config)
        for taken, _ in parts[1:]:
            targets = _without(targets, taken)
        parts.append((targets, kind))
    return compact(parts)


def _last(here: Tensor, config: GraphConfig, length: int) -> Tensor:
    """The last token that each row may look at."""
    return here if config.causal else torch.full_like(here, length - 1)


def _outside_window(j: Tensor, here: Tensor, last: Tensor, config: GraphConfig) -> Tensor:
    """`j` [B,T,K] with what a row may not look at, or has in its window, removed."""
    free = (j >= 0) & (j <= last) & ((here - j).abs() > config.window)
    return torch.where(free, j, -1)


def _without(j: Tensor, taken: Tensor) -> Tensor:
    """`j` [B,T,K] with what is in `taken` [B,T,M] of the same row removed."""
    return torch.where((j[..., :, None] == taken[..., None, :]).any(-1), -1, j)


def _each_once(j: Tensor) -> Tensor:
    """`j` [B,T,K] with what stands earlier in its row removed."""
    same = (j[..., :, None] == j[..., None, :]) & (j[..., :, None] >= 0)
    return torch.where(same.tril(-1).any(-1), -1, j)


def compact(parts: list[Part]) -> tuple[Tensor, Tensor, Tensor]:
    """The parts side by side, gaps closed: neighbors [B,T,E], counts [B,T], kinds [B,T,E]."""
    neighbors = torch.cat([j for j, _ in parts], dim=-1)
    kinds = torch.cat([torch.full_like(j, kind, dtype=torch.int8) for j, kind in parts], dim=-1)
    valid = neighbors >= 0
    order = (~valid).to(torch.int8).argsort(dim=-1, stable=True)
    counts = valid.sum(-1, dtype=torch.int32)
    return neighbors.gather(-1, order), counts, kinds.gather(-1, order)
