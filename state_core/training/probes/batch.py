"""What every probe shares: a batch of texts, the questions in it, and a generator of its own.

N texts, T tokens of each.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.errors import ConfigError, InputError

IGNORED = -100
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeBatch:
    """ids [N,T] int64; labels [N,T] int64: the id at each token that is asked for, −100 elsewhere
    (the model shifts them itself); distance [N,T] int64: how many tokens before an asked token the
    evidence for it stands, 0 elsewhere."""

    ids: Tensor
    labels: Tensor
    distance: Tensor


class Probe(Protocol):
    """A task: its parameters, and texts of it."""

    @property
    def length(self) -> int:
        """Tokens T of a text."""

    @property
    def vocab_size(self) -> int:
        """What a model's vocabulary must hold at least."""

    def __init__(self, **parameters: Any) -> None: ...

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts; the same for the same parameters, `n` and `seed`."""


def generator(task: str, n: int, seed: int) -> np.random.Generator:
    """The random numbers of one batch: its own by task and seed. InputError for n or seed < 0."""
    if n < 1 or seed < 0:
        raise InputError(f"a batch needs n ≥ 1 texts and a seed ≥ 0, got n = {n}, seed = {seed}")
    return np.random.default_rng([zlib.crc32(task.encode()), seed])


def asked(ids: Ids, distance: Ids) -> ProbeBatch:
    """The batch that asks for every token with a distance."""
    labels = np.where(distance > 0, ids, IGNORED)
    return ProbeBatch(*(torch.from_numpy(a) for a in (ids, labels, distance)))


def require(condition: bool, task: str, problem: str) -> None:
    """ConfigError naming the task, unless the condition holds."""
    if not condition:
        raise ConfigError(f"probe {task}: {problem}")


def draw_distinct(rng: np.random.Generator, n: int, size: int, count: int) -> Ids:
    """[n,count]: in each row, `count` different numbers below `size`, in random order."""
    return rng.random((n, size)).argsort(axis=1)[:, :count]
