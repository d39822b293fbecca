"""State: what a token means (semantic blocks) and when it is due (temporal).

B batch, T tokens, N blocks of the layout, P temporal width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from state_core.errors import InputError, nearest

BLOCK_WIDTH = 4


@dataclass(frozen=True)
class State:
    """The state of every token of a batch.

    semantic: [B,T,N,4], the blocks in the order of `layout`; temporal: [B,T,P].
    """

    semantic: Tensor
    temporal: Tensor
    layout: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = (len(self.layout), BLOCK_WIDTH)
        if self.semantic.dim() != 4 or tuple(self.semantic.shape[2:]) != expected:
            raise InputError(
                f"the semantic state must be [B, T, {expected[0]}, {expected[1]}] for the blocks "
                f"{' '.join(self.layout)}, got {list(self.semantic.shape)}"
            )
        if self.temporal.shape[:2] != self.semantic.shape[:2]:
            raise InputError(
                f"semantic and temporal state disagree on [B, T]: "
                f"{list(self.semantic.shape[:2])} and {list(self.temporal.shape[:2])}"
            )

    def block(self, name: str) -> Tensor:
        """One block of every token, [B,T,4]."""
        if name not in self.layout:
            raise InputError(f"no block {name!r} in the state: {nearest(name, self.layout)}")
        return self.semantic[:, :, self.layout.index(name)]

    def detach(self) -> State:
        return State(self.semantic.detach(), self.temporal.detach(), self.layout)


def check_finite(values: Tensor, what: str) -> None:
    """InputError that names the first NaN or infinite entry."""
    # A sum is finite unless an entry is not (or the sum overflows, which the scan then clears).
    if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
        return
    where = (~torch.isfinite(values)).nonzero()[0].tolist()
    raise InputError(f"{what} holds NaN or infinity, first at index {where}")
