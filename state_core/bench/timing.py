"""Interleaved timing.

Contenders take turns (A B A B …) in one process, so that a slow moment of the machine hits them
alike; what is reported is the median, with its quartiles, of the ratios within each round.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from state_core.bench.case import Thunk

SHORTEST_SAMPLE = 5e-3  # seconds; shorter calls are repeated within one sample
MIN_ROUNDS, MAX_ROUNDS = 3, 30
PAUSE = 0.02  # seconds before a sample, in which another contender's idle threads stop spinning


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def interleave(
    thunks: Mapping[str, Thunk], device: torch.device, budget: float
) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round.

    Rounds go on for about `budget` seconds, warm-up excluded, and at least MIN_ROUNDS times. The
    order rotates from round to round.
    """
    repeats = {name: _repeats(thunk, device) for name, thunk in thunks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in thunks}
    names = list(thunks)
    end = time.perf_counter() + budget
    with _garbage_collection_off():
        for turn in range(MAX_ROUNDS):
            if turn >= MIN_ROUNDS and time.perf_counter() > end:
                break
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                elapsed = _time(thunks[name], repeats[name], device)
                seconds[name].append(elapsed / repeats[name])
    return seconds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times longer the peer took, round by round."""
    return [b / a for a, b in zip(ours, theirs, strict=True)]


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the best fit value ∝ size^p: the slope of a least-squares line through the logarithms.

    1 is linear, 2 quadratic. Needs two different sizes and positive values.
    """
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return statistics.linear_regression(x, y).slope


def _repeats(thunk: Thunk, device: torch.device) -> int:
    """Calls per sample. The first call warms up: it compiles, and fills caches."""
    first = _time(thunk, 1, device)
    if first > 1:
        return 1
    return max(1, math.ceil(SHORTEST_SAMPLE / max(_time(thunk, 1, device), 1e-7)))


def _time(thunk: Thunk, repeats: int, device: torch.device) -> float:
    _wait(device)
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(repeats):
        thunk()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
