"""What a comparison is: a case, its contenders, how it is checked and what it should reach."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Shape = dict[str, int]
"""Named sizes, such as {"B": 1, "T": 4096}."""
Thunk = Callable[[], object]

OURS = "sosm"
CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Contender:
    """One way to do the work. `prepare` takes a case's inputs and returns the call to be timed."""

    name: str
    prepare: Callable[[Any], Thunk]
    package: str | None = None
    """Optional package of the extra `bench` that it needs, by the name it is imported under."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    most: int | None = None
    """The largest size along the case's axis that it is asked for: beyond, it takes minutes."""

    def missing(self, device: torch.device, size: int = 0) -> str | None:
        """Why it does not run here and how to get it, or None if it does."""
        if self.most is not None and size > self.most:
            return f"left out beyond {self.most:,}: too slow to wait for"
        if device.type not in self.devices:
            return f"runs on {'/'.join(self.devices)} only"
        if self.package and not installed(self.package):
            return "not installed: pip install 'state-core[bench]' -c constraints.txt"
        return None


@dataclass(frozen=True)
class Comparison:
    """How far our result is from a trusted one."""

    against: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Goal:
    """A bound on a figure: on the ratio to the peer of that name, or on an extra figure."""

    figure: str
    least: float | None = None
    most: float | None = None
    at: int | None = None
    """The size along the case's axis that the goal speaks of; None for every size."""

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"

    def reached(self, value: float) -> bool:
        high_enough = self.least is None or value >= self.least
        return high_enough and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Case:
    """The same work, done by us and by what a user would pick instead. Declaring one registers it.

    check:   runs on small inputs before anything is timed; every comparison must pass.
    inputs:  builds what the contenders share, untimed.
    figures: further measurements of ours, such as the share of a step that one part takes.
    """

    name: str
    group: str
    about: str
    sizes: tuple[Shape, ...]
    quick: tuple[Shape, ...]
    inputs: Callable[[Shape, torch.device], Any]
    contenders: tuple[Contender, ...]
    check: Callable[[torch.device], list[Comparison]]
    axis: str = "T"
    figures: Callable[[Any], dict[str, float]] | None = None
    goals: tuple[Goal, ...] = field(default=())

    def __post_init__(self) -> None:
        CASES[self.name] = self

    def contender(self, name: str) -> Contender:
        return next(c for c in self.contenders if c.name == name)

    def goal(self, figure: str, size: int | None) -> Goal | None:
        """The goal set for a figure at a size, if there is one."""
        fits = (g for g in self.goals if g.figure == figure and g.at in (None, size))
        return next(fits, None)


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference over that of the trusted result; huge where it is NaN."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    scale = theirs.square().mean().sqrt().clamp(min=1e-30)
    error = (ours - theirs).square().mean().sqrt() / scale
    return float(error.nan_to_num(nan=torch.finfo(torch.float64).max))


def compare(
    against: str, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-4
) -> Comparison:
    """The worst relative error over an output and its gradients."""
    worst = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
    return Comparison(against, worst, tolerance)
