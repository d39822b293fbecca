"""Exact search, block by block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.memory import exact_memory
from state_core.memory.exact_memory import nearest, similarities


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exact_memory, "BLOCK", 7)


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 10**6))
def test_blocks_and_holes_change_nothing(count: int, k: int, queries: int, seed: int):
    """Small integers: exact products, and many ties, which go to the larger row."""
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (count, 3)).astype(np.float32)
    asked = random.integers(-2, 3, (queries, 3)).astype(np.float32)
    rows = np.flatnonzero(random.random(count) < random.choice([0.3, 1.0]))
    found, scores = nearest(vectors, rows, asked, k)
    assert found.shape == scores.shape == (queries, k)
    for line, values, query in zip(found, scores, asked):
        best = sorted(rows, key=lambda r: (-(vectors[r] @ query), -r))[:k]
        assert line.tolist() == best + [-1] * (k - len(best))
        assert values.tolist() == [vectors[r] @ query for r in best] + [-np.inf] * (k - len(best))


def test_similarities_are_the_bits_of_the_search():
    vectors, queries = np.random.default_rng(0).standard_normal((2, 50, 33), np.float32)
    rows, scores = nearest(vectors, np.arange(50), queries, 9)
    assert np.array_equal(similarities(vectors, rows, queries), scores)
    assert (similarities(vectors, np.full((50, 2), -1), queries) == -np.inf).all()
    assert similarities(vectors[:0], np.full((50, 2), -1), queries).shape == (50, 2)
