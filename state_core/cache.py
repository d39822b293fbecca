"""SOSMCache: what decoding carries from token to token.

The rows of a batch may have different lengths: prompts are read one by one and stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from state_core.adapters.mu_adapter import MUState
from state_core.adapters.recency import RecencyState
from state_core.config import SOSMConfig
from state_core.graph.graph_stream import GraphStream
from state_core.row_buffer import RowBuffer
from state_core.state_size import StateSize, count_state

CARRIED = ("lengths", "layers", "ids", "pointer_keys", "recency", "mu", "graph")


class SOSMCache:
    """Continue a text with `model(ids, cache=cache)`; the cache is updated in place."""

    def __init__(self, config: SOSMConfig, batch_size: int, device: torch.device | str) -> None:
        device = torch.device(device)
        self.config = config
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.layers: list[Any] = [None] * len(config.layers)
        self.ids = RowBuffer()
        self.pointer_keys = RowBuffer()
        self.recency: RecencyState | None = None
        self.mu: MUState | None = None
        self.graph: GraphStream | None = None
        if config.graph.enabled:
            self.recency = RecencyState.empty(batch_size, config.vocab_size, device)
            self.graph = GraphStream(batch_size, device)

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def advance(self, length: int) -> Tensor:
        """Positions [B,T] of the next `length` tokens, which count as read from now on."""
        positions = self.lengths[:, None] + torch.arange(length, device=self.lengths.device)
        self.lengths = self.lengths + length
        return positions

    def state_size(self) -> StateSize:
        """How much is carried for each text: numbers and bytes, by part. Grows with what is read,
        but for the states of Mamba layers."""
        parts: dict[str, Any] = {}
        for mixer, state in zip(self.config.layers, self.layers, strict=True):
            parts.setdefault(mixer, []).append(state)
        parts["graph"] = self.graph
        parts["adapters"] = [self.mu, self.recency]
        parts["pointer"] = [self.pointer_keys, self.ids]
        parts["position"] = self.lengths
        return count_state(parts, self.batch_size)

    @classmethod
    def stack(cls, caches: Sequence[SOSMCache]) -> SOSMCache:
        """Join the rows of several caches into one batch."""
        joined = cls(caches[0].config, 0, caches[0].lengths.device)
        for name in CARRIED:
            setattr(joined, name, _stack([getattr(cache, name) for cache in caches]))
        return joined

    def snapshot(self) -> SOSMCache:
        """A copy that what is read from now on does not change. What is written once per token is
        shared, not copied."""
        copy = SOSMCache(self.config, 0, self.lengths.device)
        for name in CARRIED:
            setattr(copy, name, _snapshot(getattr(self, name)))
        return copy


def _stack(parts: Sequence[Any]) -> Any:
    """Join states along the batch, whatever they are made of."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, list):
        return [_stack(column) for column in zip(*parts, strict=True)]
    if is_dataclass(first) and not isinstance(first, type):
        columns = {f.name: _stack([getattr(p, f.name) for p in parts]) for f in fields(first)}
        return type(first)(**columns)
    return type(first).stack(parts)


def _snapshot(part: Any) -> Any:
    """A state as it is now, whatever it is made of."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        # A view would keep all of what it was cut from.
        return part.clone()
    if isinstance(part, list):
        return [_snapshot(one) for one in part]
    if is_dataclass(part) and not isinstance(part, type):
        return type(part)(**{f.name: _snapshot(getattr(part, f.name)) for f in fields(part)})
    return part.snapshot()
