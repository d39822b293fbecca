"""Points: the internals of a model that have names.

A point passes on what it is given. Its place in the module tree is its name, and a forward hook on
it reads or replaces what runs through: `state_core.analysis` lists the names and sets the hooks.
Without a hook it costs a call.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

T = TypeVar("T")


class Point(nn.Module):
    """shape: what runs through, in the letters of the module that it is in."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape

    @property
    def watched(self) -> bool:
        """Whether anyone looks: what nothing else needs is computed only then."""
        return bool(self._forward_hooks)

    def forward(self, x: T) -> T:
        """`x`, or what a hook made of it."""
        return x

    def extra_repr(self) -> str:
        return self.shape
