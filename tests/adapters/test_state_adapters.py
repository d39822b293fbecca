"""A block's name is true: it changes with its source and with nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from state_core.adapters.moving_average import CHUNK, moving_average
from state_core.adapters.mu_adapter import MUAdapter
from state_core.adapters.recency import RecencyState, advance, recency
from state_core.config import StateConfig

CONFIG = StateConfig()
LAYOUT = list(CONFIG.layout)


def blocks_of(source: str) -> list[int]:
    return [LAYOUT.index(name) for name, s in CONFIG.layout.items() if s == source]


def semantic(ids: Tensor, vectors: Tensor) -> Tensor:
    torch.manual_seed(0)
    adapter = MUAdapter(CONFIG, rank=10)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad():
        return adapter(vectors, recency(ids, positions))[0]


def changed_at(t: int) -> tuple[Tensor, Tensor]:
    """Which (position, block) of the state changes when the embedding of token t does."""
    torch.manual_seed(1)
    ids = torch.arange(40)[None]
    vectors = torch.randn(1, 40, 10)
    other = vectors.clone()
    other[0, t] += 1.0
    difference = (semantic(ids, vectors) - semantic(ids, other)).abs().amax(-1)[0]
    return difference > 0, difference


def test_each_block_sees_its_own_source() -> None:
    changes, _ = changed_at(10)
    after = torch.arange(40) - 10
    for block in blocks_of("token"):
        assert torch.equal(changes[:, block], after == 0)
    for block in blocks_of("local"):
        assert torch.equal(changes[:, block], (after >= 0) & (after < CONFIG.local_width))
    for block in blocks_of("long"):
        assert torch.equal(changes[:, block], after >= 0)
    for block in blocks_of("position"):
        assert not changes[:, block].any()
    for block in blocks_of("all"):
        assert torch.equal(changes[:, block], after >= 0)


def test_position_blocks_see_the_gap() -> None:
    torch.manual_seed(1)
    vectors = torch.randn(1, 12, 10)
    ids = torch.arange(12)[None]
    repeated = ids.clone()
    repeated[0, 9] = 3
    difference = (semantic(ids, vectors) - semantic(repeated, vectors)).abs().amax(-1)[0]
    moved = blocks_of("position") + blocks_of("all")
    assert difference[9, moved].min() > 0
    difference[9, moved] = 0
    assert difference.max() == 0


@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_moving_average_against_the_recurrence(length: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, length, 3, 4, dtype=torch.float64, requires_grad=True)
    past = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor([0.5, 0.9, 0.999], dtype=torch.float64)
    y, last = moving_average(x, decay, past)
    expected, state = [], past
    for t in range(length):
        state = decay[:, None] * state + (1 - decay[:, None]) * x[:, t]
        expected.append(state)
    torch.testing.assert_close(y, torch.stack(expected, 1))
    torch.testing.assert_close(last, state)
    weights = torch.randn_like(y)
    ours = torch.autograd.grad((y * weights).sum(), [x, past])
    theirs = torch.autograd.grad((torch.stack(expected, 1) * weights).sum(), [x, past])
    torch.testing.assert_close(ours, theirs)


def test_half_life_is_a_half_life() -> None:
    step = torch.zeros(1, 200, 1, 1, dtype=torch.float64)
    step[0, 0] = 1.0
    y, _ = moving_average(step, torch.tensor([2 ** (-1 / 16)], dtype=torch.float64))
    assert float(y[0, 160, 0, 0] / y[0, 144, 0, 0]) == pytest.approx(0.5)


def test_recency_by_hand_and_in_pieces() -> None:
    ids = torch.tensor([[5, 7, 5, 5, 7, 2], [1, 1, 1, 3, 1, 3]])
    positions = torch.arange(6).expand_as(ids)
    whole = recency(ids, positions)
    assert whole.gap.tolist() == [[0, 0, 2, 1, 3, 0], [0, 1, 1, 0, 2, 2]]
    assert whole.count.tolist() == [[0, 0, 1, 2, 1, 0], [0, 1, 2, 0, 3, 1]]
    past = RecencyState.empty(2, 8, torch.device("cpu"))
    gaps, counts = [], []
    for piece, place in zip(ids.split([1, 3, 2], 1), positions.split([1, 3, 2], 1), strict=True):
        seen = recency(piece, place, past)
        past = advance(past, piece, place)
        gaps.append(seen.gap)
        counts.append(seen.count)
    assert torch.equal(torch.cat(gaps, 1), whole.gap)
    assert torch.equal(torch.cat(counts, 1), whole.count)


def test_averages_keep_their_precision_in_a_half_precision_model() -> None:
    adapter = MUAdapter(CONFIG, rank=10)
    expected = adapter.decay.clone()
    adapter.to(torch.float32).to(torch.bfloat16).to(torch.float64)
    assert adapter.decay.dtype == torch.float64
    assert torch.equal(adapter.decay, expected)
