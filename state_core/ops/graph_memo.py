"""What kernels ask of a graph once, for all layers of a model read the same graph.

Shapes: B batch, T rows, S tokens looked at, E most edges of a row.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from state_core.errors import InputError

Answer = TypeVar("Answer")


class _Memo(NamedTuple):
    version: tuple[int, int]
    counts: weakref.ref[torch.Tensor]
    sources: int
    answer: object


class GraphMemo(Generic[Answer]):
    """`build(neighbors, counts, sources)`, where the last answer for a graph is kept.

    It lives for as long as the neighbours tensor does, and is dropped when that tensor or `counts`
    is written to. Tensors made in inference mode do not tell whether they were written to: for
    them every call builds anew.
    """

    def __init__(self, build: Callable[[torch.Tensor, torch.Tensor, int], Answer]) -> None:
        self._build = build
        self._memos = WeakTensorKeyDictionary()

    def __call__(self, neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> Answer:
        if neighbors.is_inference() or counts.is_inference():
            return self._build(neighbors, counts, sources)
        version = (neighbors._version, counts._version)
        memo = self._memos.get(neighbors)
        if memo and memo.version == version and memo.sources == sources and memo.counts() is counts:
            return memo.answer
        answer = self._build(neighbors, counts, sources)
        self._memos[neighbors] = _Memo(version, weakref.ref(counts), sources, answer)
        return answer


def edges_present(neighbors: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """[B, T, E] bool: which entries of the table are edges."""
    return torch.arange(neighbors.shape[2], device=neighbors.device) < counts[..., None]


def _check(neighbors: torch.Tensor, counts: torch.Tensor, sources: int) -> None:
    edges = neighbors.shape[2]
    outside = (neighbors < 0) | (neighbors >= sources)
    bad_edge = (outside & edges_present(neighbors, counts)).any()
    bad_count = ((counts < 0) | (counts > edges)).any()
    if bool(bad_edge | bad_count):
        raise InputError(f"counts must be within 0 … {edges}, neighbors within 0 … {sources - 1}")


check_edges = GraphMemo(_check)
"""InputError for counts and neighbours out of range. On a GPU it waits for the answer."""
