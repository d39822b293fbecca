"""Reads a text of any length with bounded state: a cache within a segment, a memory behind it.

B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from state_core.memory.text_memory import Keepsake, TextMemory

if TYPE_CHECKING:
    from state_core.output import SOSMOutput


class SegmentReader:
    """Goes on reading texts that all have the same length so far.

    When a segment is full its tokens go to the memory, and the next begins with its last token, as
    in training. What is carried never exceeds one segment and the memory's capacity.
    """

    def __init__(self, model: Any, memory: TextMemory, segment: int) -> None:
        """segment: tokens of one, at least 2; best as many as the model was trained with."""
        self.model, self.memory, self.segment = model, memory, segment
        self._begin()

    def read(self, ids: Tensor) -> SOSMOutput:
        """Read ids [B,T], T ≥ 1; the output of the last piece, whose `last_logits` [B,V] say what
        comes next."""
        while True:
            if self.held == self.segment:
                self._turn_over()
            room = self.segment - self.held
            out = self._read(ids[:, :room])
            ids = ids[:, room:]
            if ids.shape[1] == 0:
                return out

    @property
    def held(self) -> int:
        """Tokens of the segment under way."""
        return sum(piece.shape[1] for piece in self._pieces)

    def _read(self, ids: Tensor) -> SOSMOutput:
        out: SOSMOutput = self.model(ids, cache=self._cache, memory=self.memory)
        assert out.keepsake is not None
        self._pieces.append(ids)
        self._keepsakes.append(out.keepsake)
        return out

    def _turn_over(self) -> None:
        ids = torch.cat(self._pieces, dim=1)
        self.memory.append(ids, Keepsake.join(self._keepsakes))
        self._begin()
        self._read(ids[:, -1:])

    def _begin(self) -> None:
        self._cache = self.model.new_cache(self.memory.batch_size)
        self._pieces: list[Tensor] = []
        self._keepsakes: list[Keepsake] = []
