"""GraphStream: what the graph's next rows need of the tokens before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from state_core.errors import ConfigError
from state_core.graph.prefix import Prefix
from state_core.row_buffer import RowBuffer
from state_core.state import State


@dataclass(frozen=True)
class Known:
    """positions [B,T] of new tokens; features [B,S,d], states [B,S,N,4] and temporal states [B,S,P]
    of all tokens; prefix: their edges, as far as something is chosen from them."""

    positions: Tensor
    features: Tensor
    semantic: Tensor
    temporal: Tensor
    prefix: Prefix


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
        self.temporal = RowBuffer()
        self.bars = RowBuffer()
        self.codes = RowBuffer()
        self.prefix = Prefix()

    def extend(self, u: Tensor, state: State) -> Known:
        """Append the features [B,T,d] and the state of new tokens."""
        steps = torch.arange(u.shape[1], device=u.device)
        positions = self.lengths[:, None] + steps
        self.lengths = self.lengths + u.shape[1]
        return Known(
            positions,
            self.features.write(u.detach(), positions),
            self.semantic.write(state.semantic.detach(), positions),
            self.temporal.write(state.temporal.detach(), positions),
            self.prefix,
        )

    def snapshot(self) -> GraphStream:
        """A copy that what is read from now on does not change."""
        copy = GraphStream(0)
        copy.lengths = self.lengths.clone()
        for name in ("features", "semantic", "temporal", "codes"):
            setattr(copy, name, getattr(self, name).snapshot())
        # A later token raises the bars of earlier ones.
        copy.bars, copy.prefix = self.bars.copy(), self.prefix.snapshot()
        return copy

    @classmethod
    def stack(cls, streams: Sequence[GraphStream]) -> GraphStream:
        """Join the rows of several streams into one batch; they may have different lengths."""
        joined = cls(0)
        joined.lengths = torch.cat([s.lengths for s in streams])
        for name in ("features", "semantic", "temporal", "codes", "bars"):
            setattr(joined, name, RowBuffer.stack([getattr(s, name) for s in streams]))
        joined.prefix = Prefix.stack([s.prefix for s in streams])
        return joined
