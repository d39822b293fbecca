from __future__ import annotations

import itertools
import random
import re

import pytest

from state_core.errors import DataError
from state_core.training import duplicates
from state_core.training.duplicates import SHINGLE, refuse_near_duplicates, shingle_hashes


def words(seed: int, n: int = 400) -> str:
    return " ".join(random.Random(seed).choices([f"w{i}" for i in range(500)], k=n))


def shingles(text: str) -> set[tuple[str, ...]]:
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + SHINGLE]) for i in range(len(found) - SHINGLE + 1)}


def test_counts_are_those_of_sets() -> None:
    base = words(0)
    texts = [base, base[: len(base) // 2] + " " + words(1), words(2), base[-900:].upper()]
    hashes = shingle_hashes(texts)
    assert [len(h) for h in hashes] == [len(shingles(t)) for t in texts]
    counts = duplicates._shared_counts(hashes)
    for a, b in itertools.combinations(range(len(texts)), 2):
        assert counts.get((a, b), 0) == len(shingles(texts[a]) & shingles(texts[b]))


def test_a_held_out_copy_is_refused_and_named() -> None:
    text = words(0)
    splits = {"train": [("a", text), ("c", words(1))], "valid": [("b", "Preface: " + text)]}
    with pytest.raises(DataError, match=r"'a' \(train\) and 'b' \(valid\) share 100%"):
        refuse_near_duplicates(splits)


def test_a_held_out_excerpt_is_refused() -> None:
    text = words(0)
    with pytest.raises(DataError, match="'b'"):
        refuse_near_duplicates({"train": [("a", text)], "test": [("b", text[500:900])]})


def test_copies_inside_one_split_and_quotations_pass() -> None:
    text = words(0)
    quotation = words(3) + " " + " ".join(text.split()[:100])
    splits = {"train": [("a", text), ("b", text)], "valid": [("c", quotation)], "test": []}
    refuse_near_duplicates(splits)


def test_short_texts_and_no_texts() -> None:
    refuse_near_duplicates({"train": [("a", "")], "valid": [("b", "!")]})
    refuse_near_duplicates({})
    with pytest.raises(DataError):
        refuse_near_duplicates({"train": [("a", "one two")], "valid": [("b", "One, two.")]})


def test_large_corpora_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_SHINGLES", 300)
    text = words(0, 2000)
    assert 50 < len(shingle_hashes([text])[0]) < 600
    with pytest.raises(DataError):
        refuse_near_duplicates({"train": [("a", text)], "valid": [("b", text + " x")]})
    refuse_near_duplicates({"train": [("a", text)], "valid": [("b", words(1, 2000))]})
