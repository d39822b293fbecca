"""Multi-block heads: a head that sees the edges of one block of the state.

A semantic edge, and a successor edge, belongs to the block with the largest contribution to its
similarity. The first heads are global and see every edge; the others take the blocks of the
similarity in turn. Edges that no block chose (the window, sinks, shortcuts) are seen by all heads,
so that no row is empty.

B batch, T tokens with rows, S tokens known, H heads, E edges of a row, N blocks of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.config import SOSMConfig
from state_core.graph.neighbors import EdgeKind
from state_core.graph.similarity import BlockwiseSimilarity
from state_core.graph.token_graph import TokenGraph

GLOBAL = -1
# Added to the score of an edge that a head does not see: e^x of it is 0 beside any real score. Not
# −∞, of which a kernel that takes a row in pieces would subtract −∞.
UNSEEN = -1e4


def head_blocks(config: SOSMConfig) -> Tensor:
    """The block of each head [H]: its number in the state's layout, GLOBAL for a global head. The
    two maps of a differential head see the same edges."""
    attention = config.attention
    layout = list(config.state.layout)
    blocks = [layout.index(name) for name, w in config.graph.block_weights.items() if w > 0]
    maps = 2 if attention.differential else 1
    of_blocks = attention.n_heads // maps - attention.global_heads
    chosen = [GLOBAL] * attention.global_heads
    chosen += [blocks[h % len(blocks)] for h in range(of_blocks)]
    return torch.tensor(chosen).repeat_interleave(maps)


@torch.no_grad()
def edge_blocks(graph: TokenGraph) -> Tensor:
    """The block that each edge belongs to [B,T,E], GLOBAL for those that no block chose."""
    similarity = graph.similarity
    assert isinstance(similarity, BlockwiseSimilarity)
    dominant = similarity.dominant(graph.semantic, graph.positions, graph.neighbors)
    by_content = (graph.kinds == EdgeKind.SEMANTIC) | (graph.kinds == EdgeKind.SUCCESSOR)
    return torch.where(by_content, dominant, GLOBAL)


def unseen(heads: Tensor, edges: Tensor) -> Tensor:
    """Which head does not see which edge, [B,H,T,E] bool, for the blocks of heads [H] and of edges
    [B,T,E]."""
    heads, edges = heads[:, None, None], edges[:, None]
    return (heads != edges) & (heads != GLOBAL) & (edges != GLOBAL)
