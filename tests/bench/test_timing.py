"""The statistics of a benchmark, on numbers known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.bench import timing
from state_core.bench.timing import Spread, growth_exponent, interleave, ratios

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "SHORTEST_SAMPLE", 1e-9)
    monkeypatch.setattr(timing, "PAUSE", 0)


@given(st.floats(-2, 3), st.floats(1e-6, 1e6))
def test_growth_exponent_finds_the_power(power: float, factor: float):
    sizes = [64, 1000, 4096, 16384]
    assert growth_exponent(sizes, [factor * s**power for s in sizes]) == pytest.approx(
        power, abs=1e-6
    )


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert Spread.of([7.0]) == Spread(7, 7, 7)


def test_ratios_are_taken_round_by_round():
    assert ratios([1, 10], [2, 20]) == [2, 2]


def test_contenders_take_turns_and_the_first_turn_rotates():
    calls: list[str] = []
    thunks = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = interleave(thunks, CPU, budget=0)
    rounds = "".join(calls[-9:])
    assert rounds == "abc" + "bca" + "cab"
    assert {len(samples) for samples in seconds.values()} == {timing.MIN_ROUNDS}


def test_rounds_end_at_the_most_even_with_a_large_budget():
    seconds = interleave({"a": lambda: None}, CPU, budget=math.inf)
    assert len(seconds["a"]) == timing.MAX_ROUNDS


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-5, 500), (4e-3, 2), (2.0, 1)])
def test_short_calls_are_repeated_within_a_sample(
    seconds: float, repeats: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "SHORTEST_SAMPLE", 5e-3)
    asked: list[int] = []

    def clock(thunk: object, times: int, device: torch.device) -> float:
        asked.append(times)
        return seconds * times

    monkeypatch.setattr(timing, "_time", clock)
    samples = interleave({"a": lambda: None}, CPU, budget=0)["a"]
    assert samples == pytest.approx([seconds] * timing.MIN_ROUNDS)
    assert set(asked[-timing.MIN_ROUNDS :]) == {repeats}
