"""GraphStream: what the graph's next rows need of the tokens before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from state_core.errors import ConfigError
from state_core.row_buffer import RowBuffer


class GraphStream:
    """The features, states, LSH codes and running K-th bests of the tokens read so far.

    `builder(state, stream)` appends the tokens of `state` and returns their rows: the same rows,
    bit for bit, that the builder gives for the whole text at once.
    """

    def __init__(
        self, batch_size: int, device: torch.device | str = "cpu", causal: bool = True
    ) -> None:
        if not causal:
            raise ConfigError(
                "a bidirectional graph cannot be streamed: later tokens change earlier rows"
            )
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.features = RowBuffer()
        self.semantic = RowBuffer()
        self.bars = RowBuffer()
        self.codes = RowBuffer()

    def extend(self, u: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append features [B,T,d] and states [B,T,N,4]; returns the new tokens' positions [B,T] and
        the features [B,S,d] and states [B,S,N,4] of all tokens."""
        steps = torch.arange(u.shape[1], device=u.device)
        positions = self.lengths[:, None] + steps
        self.lengths = self.lengths + u.shape[1]
        keys = self.features.write(u.detach(), positions)
        return positions, keys, self.semantic.write(semantic.detach(), positions)

    @classmethod
    def stack(cls, streams: Sequence[GraphStream]) -> GraphStream:
        """Join the rows of several streams into one batch; they may have different lengths."""
        joined = cls(0)
        joined.lengths = torch.cat([s.lengths for s in streams])
        joined.features = RowBuffer.stack([s.features for s in streams])
        joined.semantic = RowBuffer.stack([s.semantic for s in streams])
        joined.bars = RowBuffer.stack([s.bars for s in streams])
        joined.codes = RowBuffer.stack([s.codes for s in streams])
        return joined
