"""Where a token stands in the graph, added to its embedding; zero-initialised.

degree       Graphormer's centrality encoding (arXiv 2106.05234), of the past only: a row's length,
             and the most semantic edges that led before to a token that it looks at (a token's own
             in-degree is 0 when it is read)
random_walk  how likely a walk in the text so far is to come back (arXiv 2110.07875)

B batch, T tokens, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.config import GraphConfig
from state_core.graph.structure import WALK_STEPS
from state_core.graph.token_graph import TokenGraph

ROW_LENGTHS = 64
READ_BINS = 16  # 0, 1, 2–3, 4–7, …
LEAST_RETURN = 1e-4


class DegreeEncoding(nn.Module):
    """An embedding of how much a token looks at, and one of how much that is looked at."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.row_length = nn.Parameter(torch.zeros(ROW_LENGTHS, d_model))
        self.times_read = nn.Parameter(torch.zeros(READ_BINS, d_model))

    def forward(self, graph: TokenGraph) -> Tensor:
        """[B,T,D]."""
        assert graph.degree is not None
        length, read = graph.degree.unbind(-1)
        powers = 2 ** torch.arange(READ_BINS - 1, device=read.device)
        bins = torch.bucketize(read.contiguous(), powers, right=True)
        lengths = length.clamp(max=ROW_LENGTHS - 1)
        return F.embedding(lengths, self.row_length) + F.embedding(bins, self.times_read)


class RandomWalkEncoding(nn.Module):
    """A projection of the logarithms of the return probabilities, which differ by powers."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        # No walk is back after one step.
        self.weight = nn.Parameter(torch.zeros(d_model, WALK_STEPS - 1))

    def forward(self, graph: TokenGraph) -> Tensor:
        """[B,T,D]."""
        assert graph.walk is not None
        back = graph.walk[..., 1:].clamp(min=LEAST_RETURN) / LEAST_RETURN
        return F.linear(back.log(), self.weight)


def build_encoding(config: GraphConfig, d_model: int) -> DegreeEncoding | RandomWalkEncoding | None:
    """The encoding that `config.encoding` names."""
    if config.encoding == "degree":
        return DegreeEncoding(d_model)
    return RandomWalkEncoding(d_model) if config.encoding == "random_walk" else None
