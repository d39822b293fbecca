"""What the shape of the graph says of each token: shortcuts, coordinates, degree, return walks.

Each part is made only if the configuration asks for it, and from the past only: from the finished
prefix at the last border, or from the edges of the tokens up to this one. All of it runs on the
CPU, whatever device the model is on.

B batch, T new tokens, S tokens known, K semantic edges or shortcuts of a token, L landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from state_core import ops
from state_core.config import GraphConfig
from state_core.graph.landmarks import NOT_YET, add_landmarks, choose_landmarks, seen_when_read
from state_core.graph.neighbors import EdgeKind, Part
from state_core.graph.prefix import Arcs, Prefix, borders
from state_core.graph.shortcuts import best_bridges, fibonacci_targets, random_targets

WALK_STEPS = 4  # of the random walk; two more would cost the edges two hops further


@dataclass(frozen=True)
class Structure:
    """shortcuts [B,T,K] int32 (−1 none); coordinates [B,S,L] int32 (−1 unreached or not chosen
    yet); read [B,T] int32, the most semantic edges that led before to a token that this one looks
    at; walk [B,T,WALK_STEPS] float64; landmarks [B,L] int64, which tokens they are (−1 not chosen
    yet). None where the configuration does not ask for it."""

    shortcuts: Tensor | None = None
    coordinates: Tensor | None = None
    landmarks: Tensor | None = None
    read: Tensor | None = None
    walk: Tensor | None = None


@torch.no_grad()
def read_structure(
    parts: Sequence[Part], positions: Tensor, config: GraphConfig, prefix: Prefix
) -> Structure:
    """The structure of tokens at `positions` [B,T], whose own edges are `parts`.

    prefix: what is known of the tokens before them; updated in place.
    """
    if not config.needs_structure:
        return Structure()
    at, device = positions.cpu(), positions.device
    parts = [(targets.cpu(), kind) for targets, kind in parts]
    shortcuts = coordinates = landmarks = read = walk = None
    if config.shortcuts == "random":
        shortcuts = random_targets(at, config)
    if config.shortcuts == "fibonacci":
        shortcuts = fibonacci_targets(at, config)
    if config.needs_degree:
        read = _times_read(parts, at, config, prefix)
    if config.needs_rows:
        rows = prefix.extend(parts, at, config)
        if config.causal:
            shortcuts = _at_borders(at, config, prefix, shortcuts)
            if config.landmarks:
                coordinates, landmarks = _coordinates(*rows, at, prefix)
        else:
            shortcuts, coordinates = _of_the_whole(*rows, config, shortcuts)
            landmarks = None if coordinates is None else _tokens_of_landmarks(coordinates)
    if config.encoding == "random_walk":
        walk = ops.causal_walk_pe(*prefix.rows(at[:, -1] + 1), at, WALK_STEPS)
    made = (shortcuts, coordinates, landmarks, read, walk)
    return Structure(*(None if part is None else part.to(device) for part in made))


def _at_borders(
    at: Tensor, config: GraphConfig, prefix: Prefix, shortcuts: Tensor | None
) -> Tensor | None:
    """Choose bridges and landmarks at the borders that the new tokens reach."""
    batch, length = at.shape
    nothing = torch.full((batch, length, config.landmarks), -1, dtype=torch.int32)
    distances = prefix.distances.write(nothing, at)
    bridges = prefix.bridges[:, None].repeat(1, length, 1)
    neighbors, counts = prefix.rows(at[:, -1] + 1)
    for b, first in enumerate(at[:, 0].tolist()):
        reached = borders(first, length, config.chunk)
        if not reached:
            continue
        arcs = Arcs(neighbors[b, : reached[-1]], counts[b, : reached[-1]])
        for border in reached:
            graph = arcs.before(border)
            if config.shortcuts == "betweenness":
                prefix.bridges[b] = best_bridges(*graph, config.shortcut_count)
                bridges[b, border - first :] = prefix.bridges[b]
            add_landmarks(*graph, border, prefix.born[b], distances[b])
    return bridges if config.shortcuts == "betweenness" else shortcuts


def _coordinates(
    neighbors: Tensor, counts: Tensor, at: Tensor, prefix: Prefix
) -> tuple[Tensor, Tensor]:
    """Give the new tokens their coordinates; returns those of all tokens [B,S,L], and which tokens
    the landmarks are [B,L]."""
    distances = prefix.distances.view(neighbors)
    ops.landmark_coordinates(neighbors, counts, at, prefix.born, distances)
    new = distances[torch.arange(len(at))[:, None], at]
    seen = prefix.coordinates.write(seen_when_read(new, at, prefix.born), at)
    # Rows beyond the end of a shorter text hold zeros, which are no distances.
    chosen = prefix.born != NOT_YET
    return seen, torch.where(chosen, _tokens_of_landmarks(distances), -1)


def _tokens_of_landmarks(distances: Tensor) -> Tensor:
    """The token at no distance [B,S,L] from each landmark, [B,L]; −1 where none is."""
    found, token = (distances == 0).max(dim=1)
    return torch.where(found, token, -1)


def _of_the_whole(
    neighbors: Tensor, counts: Tensor, config: GraphConfig, shortcuts: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Bridges and coordinates in whole graphs, for encoders."""
    bridges, coordinates = [], []
    for row, count in zip(neighbors, counts, strict=True):
        graph = Arcs(row, count).before(len(row))
        if config.shortcuts == "betweenness":
            bridges.append(best_bridges(*graph, config.shortcut_count).expand(len(row), -1))
        if config.landmarks:
            chosen = choose_landmarks(*graph, config.landmarks)
            hops = ops.landmark_distances(*graph, chosen)
            missing = config.landmarks - len(chosen)
            coordinates.append(torch.nn.functional.pad(hops, (0, missing), value=-1))
    return (
        torch.stack(bridges) if bridges else shortcuts,
        torch.stack(coordinates) if coordinates else None,
    )


def _times_read(parts: Sequence[Part], at: Tensor, config: GraphConfig, prefix: Prefix) -> Tensor:
    """The most semantic edges, of earlier tokens, to a token that each new one looks at: [B,T]."""
    semantic = next(targets for targets, kind in parts if kind is EdgeKind.SEMANTIC)
    readers = prefix.readers.write(torch.zeros(at.shape, dtype=torch.int64), at)
    text, row, _ = found = (semantic >= 0).nonzero(as_tuple=True)
    target = semantic[found].long()
    before = readers[text, target] + _rank_among_equals(text * readers.shape[1] + target)
    readers.index_put_((text, target), torch.ones_like(target), accumulate=True)
    if not config.causal:
        before = readers[text, target]
    most = torch.zeros(at.numel(), dtype=torch.int64)
    return most.scatter_reduce(0, text * at.shape[1] + row, before, "amax").view(at.shape).int()


def _rank_among_equals(keys: Tensor) -> Tensor:
    """How many equal keys stand before each, [M]."""
    ranked, order = keys.sort(stable=True)
    rank = torch.arange(len(keys)) - torch.searchsorted(ranked, ranked)
    return torch.empty_like(rank).scatter_(0, order, rank)
