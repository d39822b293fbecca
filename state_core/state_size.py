"""How much a model carries from token to token: what recall must be paid with.

Two mixers are compared fairly at equal state, not at equal width alone (Based, arXiv 2402.18668;
Zoology, arXiv 2312.04927). It is counted in the tensors that a cache really holds, so that nothing
is left out: the graph's features and the pointer's keys count like keys and values do. What is
reserved for later tokens does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from state_core.row_buffer import RowBuffer


@dataclass(frozen=True)
class Held:
    """Numbers held for one text, and the bytes that they take."""

    elements: float = 0
    bytes: float = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.elements + other.elements, self.bytes + other.bytes)


@dataclass(frozen=True)
class StateSize:
    """What is held for one text, by part: each kind of mixer under its name, `graph`, `adapters`
    (averages and recency), `pointer` (keys, and the ids that they vote for) and `position`."""

    parts: dict[str, Held]

    @property
    def total(self) -> Held:
        return sum(self.parts.values(), Held())

    @property
    def elements(self) -> float:
        """Numbers held for one text."""
        return self.total.elements

    @property
    def bytes(self) -> float:
        """Bytes held for one text."""
        return self.total.bytes

    def to_dict(self) -> dict[str, Any]:
        """JSON: the totals, and the elements of each part."""
        by_part = {name: held.elements for name, held in self.parts.items()}
        return {"elements": self.elements, "bytes": self.bytes, "by_part": by_part}


def count_state(parts: Mapping[str, Any], texts: int) -> StateSize:
    """What `parts` hold for each of `texts` texts; parts that hold nothing are left out. Texts of
    unlike length are padded to the longest in a cache, and count so."""
    sizes = {}
    for name, part in parts.items():
        tensors = list(_tensors(part))
        if tensors:
            elements = sum(t.numel() for t in tensors)
            used = sum(t.numel() * t.element_size() for t in tensors)
            sizes[name] = Held(elements / texts, used / texts)
    return StateSize(sizes)


def _tensors(part: Any) -> Iterator[Tensor]:
    """What a part of a cache holds, whatever it is made of."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, RowBuffer):
        yield from [] if part.values is None else [part.values]
    elif isinstance(part, list):
        for one in part:
            yield from _tensors(one)
    elif part is not None:
        yield from _tensors(list(vars(part).values()))
