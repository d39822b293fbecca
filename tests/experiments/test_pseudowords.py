"""Pseudowords: which words are merged, and a probe that tells them apart where that is possible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import pseudowords
from experiments.pseudowords import PAIRS, Pseudowords, _probe, _rank_correlation, _Reading

WORDS = 700


@pytest.fixture
def text() -> Any:
    """A text of words, the i-th of them about 8000/i times, and pieces that are no words."""
    pieces = [
        f" w{'abcdefghij'[i % 10]}{'abcdefghijklmnopqrstuvwxyz'[i % 26]}" for i in range(WORDS)
    ]
    pieces[3] = "tail"
    counts = (8000 / np.arange(1, WORDS + 1)).astype(int)
    ids = np.repeat(np.arange(WORDS), counts)
    tokenizer = SimpleNamespace(vocab_size=WORDS, pieces=lambda _: pieces)
    return SimpleNamespace(train=ids, tokenizer=tokenizer)


def test_words_are_drawn_once_and_are_alike(text: Any):
    drawn = Pseudowords.draw(text, 0)
    assert drawn.pairs.shape == (PAIRS, 2)
    every = [*drawn.pairs.ravel(), *drawn.controls]
    assert len(set(every)) == 3 * PAIRS
    assert 3 not in every
    counts = np.bincount(text.train)
    first, second = counts[drawn.pairs].T
    assert np.median(first / second) < 1.5
    again, other = Pseudowords.draw(text, 0), Pseudowords.draw(text, 1)
    assert (again.pairs == drawn.pairs).all()
    assert (other.pairs != drawn.pairs).any()


def test_only_the_second_word_of_a_pair_changes(text: Any):
    drawn = Pseudowords.draw(text, 0)
    changed = drawn.change(text.train)
    second = np.isin(text.train, drawn.pairs[:, 1])
    assert (changed[~second] == text.train[~second]).all()
    assert not np.isin(changed, drawn.pairs[:, 1]).any()


@pytest.fixture
def words() -> Pseudowords:
    return Pseudowords(np.array([[1, 2], [3, 4]]), np.array([5, 6]))


def reading(hidden: np.ndarray, ids: np.ndarray, k: np.ndarray | None = None) -> _Reading:
    return _Reading(hidden.astype(np.float32), k, ids)


def test_the_probe_finds_what_is_there_and_nothing_else(words: Pseudowords):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 5, 2000)
    noise = rng.normal(size=(len(ids), 8))
    told = noise + 4 * (ids % 2)[:, None]
    fit, test = slice(0, 1500), slice(1500, None)
    seen, _ = _probe(words, reading(told[fit], ids[fit]), reading(told[test], ids[test]))
    blind, chance = _probe(words, reading(noise[fit], ids[fit]), reading(noise[test], ids[test]))
    assert seen > 0.99
    assert abs(blind - 0.5) < 0.07
    assert abs(chance - 0.5) < 0.07


def test_the_correlation_is_between_edges_and_senses(words: Pseudowords):
    ids = np.array([1, 2, 3, 4, 5, 6, 5, 6])
    hidden = np.zeros((8, 1))
    more = np.where(ids < 5, 9, 3)
    assert _rank_correlation(words, reading(hidden, ids, more)) == pytest.approx(1)
    assert _rank_correlation(words, reading(hidden, ids, 12 - more)) == pytest.approx(-1)
    assert _rank_correlation(words, reading(hidden, ids)) is None


def test_a_whole_word_begins_with_a_space():
    assert [pseudowords._is_word(p) for p in (" king", "king", " a", " don't", " 1608")] == [
        True, False, False, False, False,
    ]  # fmt: skip
