"""Checks of what callers hand in. Only the public methods use them: inside, data is sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from state_core.errors import InputError
from state_core.memory.protocol import Floats, Ints, Vectors


def vectors(given: Vectors, dim: int, what: str) -> Floats:
    """Contiguous, writable [N,dim] float32, sharing memory where it can."""
    if isinstance(given, torch.Tensor):
        if given.device.type != "cpu":
            raise InputError(f"{what} are on {given.device}: move them with .cpu()")
        given = given.detach().numpy()
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        kind = getattr(given, "dtype", type(given).__name__)
        raise InputError(f"{what} must be a float32 array or tensor, got {kind}")
    if given.ndim != 2 or given.shape[1] != dim:
        raise InputError(f"{what} must be [N, {dim}], got {list(given.shape)}")
    if not np.isfinite(given).all():
        row = int(np.flatnonzero(~np.isfinite(given).all(1))[0])
        raise InputError(f"{what} hold NaN or infinity, first in row {row}")
    return np.require(given, requirements=["C", "W"])  # torch wants to be able to write


def integers(given: Any, what: str, length: int | None = None) -> Ints:
    """[length] int64; one integer stands for `length` of them."""
    found = given.detach().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if found.size and found.dtype.kind not in "iu":
        raise InputError(f"{what} must be integers, got {found.dtype}")
    if found.ndim == 0 and length is not None:
        found = np.full(length, found)
    if found.ndim != 1 or (length is not None and len(found) != length):
        raise InputError(f"{what} must be [{'N' if length is None else length}], got {found.shape}")
    return found.astype(np.int64)


def count(given: int, what: str, least: int) -> int:
    """An integer of at least `least`."""
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < least:
        raise InputError(f"{what} must be an integer of at least {least}, got {given!r}")
    return int(given)


def half_open(given: Sequence[int], what: str) -> tuple[int, int]:
    """(start, stop) with start <= stop."""
    pair = integers(list(given), what)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise InputError(f"{what} must be (start, stop) with start <= stop, got {given!r}")
    return int(pair[0]), int(pair[1])
