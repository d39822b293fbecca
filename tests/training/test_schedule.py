from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.config import TrainConfig
from state_core.training.schedule import learning_rate


@given(
    steps=st.integers(0, 300),
    warmup=st.integers(0, 400),
    ratio=st.floats(0, 1),
    beyond=st.integers(0, 5),
)
def test_it_rises_then_falls_for_every_step_count(
    steps: int, warmup: int, ratio: float, beyond: int
) -> None:
    train = TrainConfig(steps=steps, warmup=warmup, min_lr_ratio=ratio, lr=1e-3)
    rates = [learning_rate(step, train) for step in range(steps)]
    assert all(math.isfinite(r) and 0 < r <= train.lr * (1 + 1e-12) for r in rates)
    turn = min(warmup, steps)
    assert all(a < b for a, b in pairwise(rates[:turn]))
    assert all(a >= b for a, b in pairwise(rates[turn:]))
    if steps > warmup:
        assert max(rates) == pytest.approx(train.lr)
    assert learning_rate(steps + beyond, train) == pytest.approx(train.lr * ratio)


def test_halfway_down_is_the_mean() -> None:
    train = TrainConfig(steps=110, warmup=10, min_lr_ratio=0.1, lr=1.0)
    assert learning_rate(60, train) == pytest.approx(0.55)
    assert learning_rate(4, train) == pytest.approx(0.5)
