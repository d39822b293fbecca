"""Which tiles of the T x S score matrix hold edges, from the edges alone.

A tile is ROWS queries against COLUMNS keys. For each of its rows it keeps a word with a bit per
key that is there. The edges of a row, sorted by key, lie together within a tile, so an edge is
number first + (bits below its own) of its row, and its bias is found without a search.

Shapes: B batch, T rows, S keys, E most edges of a row, N tiles with an edge,
R = ceil(T / ROWS) blocks of rows, C = ceil(S / COLUMNS) blocks of keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from state_core.ops.graph_memo import GraphMemo, check_edges, edges_present

ROWS, COLUMNS = 64, 32
LAST = torch.iinfo(torch.int32).max


class TileList(NamedTuple):
    """Tiles by blocks of rows, and in a second order by blocks of keys. All int32.

    words:        [N, ROWS], bit c of [n, r]: row r of tile n has an edge to the tile's key c.
    firsts:       [N, ROWS], the number of the row's first edge there among its edges by key.
    slots:        [B, T, E], where in its row of `neighbors` the n-th edge by key lies.
    row_starts:   [B * R + 1]. The tiles of block r of batch row b are those from
                  row_starts[b * R + r] up to the next one's.
    key_blocks:   [N], a tile's block of keys.
    key_starts:   [B * C + 1], like row_starts, into `by_key`.
    by_key:       [N], the tiles by batch row, block of keys and block of rows.
    row_blocks:   [N], the block of rows of the tiles in that order.
    edges:        how many edges the graph has.
    """

    words: torch.Tensor
    firsts: torch.Tensor
    slots: torch.Tensor
    row_starts: torch.Tensor
    key_blocks: torch.Tensor
    key_starts: torch.Tensor
    by_key: torch.Tensor
    row_blocks: torch.Tensor
    edges: int

    @property
    def edges_per_tile(self) -> float:
        return self.edges / max(1, len(self.key_blocks))


def _build(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> TileList | None:
    check_edges(neighbors, counts, sources)
    batch, tokens, _ = neighbors.shape
    present = edges_present(neighbors, counts)
    keys, slots = neighbors.where(present, LAST).sort(dim=-1)
    if bool(((keys[..., 1:] == keys[..., :-1]) & present[..., 1:]).any()):
        return None
    b, i, number = present.nonzero(as_tuple=True)
    j = keys[present]
    row_blocks, key_blocks = -(-tokens // ROWS), -(-sources // COLUMNS)
    of_edge = (b * row_blocks + i // ROWS) * key_blocks + j // COLUMNS
    tiles, tile = of_edge.unique(return_inverse=True)
    place = tile * ROWS + i % ROWS  # a row of a tile; it has one run of edges, in ascending order
    starts_run = torch.ones_like(place, dtype=torch.bool)
    starts_run[1:] = place[1:] != place[:-1]
    words = place.new_zeros(len(tiles) * ROWS, dtype=torch.int32)
    words.index_add_(0, place, torch.ones_like(j) << j % COLUMNS)
    firsts = torch.zeros_like(words)
    firsts[place[starts_run]] = number[starts_run].int()

    block, key_block = tiles // key_blocks, tiles % key_blocks
    row_block = block % max(1, row_blocks)
    transposed = (block // max(1, row_blocks) * key_blocks + key_block) * row_blocks + row_block
    transposed, by_key = transposed.sort()
    return TileList(
        words.view(-1, ROWS),
        firsts.view(-1, ROWS),
        slots.int(),
        _borders(tiles, batch * row_blocks, key_blocks),
        key_block.int(),
        _borders(transposed, batch * key_blocks, row_blocks),
        by_key.int(),
        row_block[by_key].int(),
        len(j),
    )


def _borders(sorted_ids: torch.Tensor, groups: int, size: int) -> torch.Tensor:
    """Where each group of `size` consecutive ids begins, and where the last one ends."""
    borders = torch.arange(groups + 1, device=sorted_ids.device) * size
    return torch.searchsorted(sorted_ids, borders, out_int32=True)


tile_list = GraphMemo(_build)
"""(neighbors, counts, sources) → TileList, or None if a row has the same neighbour twice."""
