"""What a sense is compared with, what a point is, and a method that knows gets all of them."""

from __future__ import annotations

import pytest
import torch

from state_core.analysis.disambiguation import SenseTask
from state_core.errors import InputError
from state_core.training.wordnet import read_wordnet
from tests.training.wordnet_files import wordnet_files

WORDNET = read_wordnet(wordnet_files())
TASK = SenseTask.of(WORDNET.usages, WORDNET)


def said(task: SenseTask, q: int) -> list[list[str]]:
    """The texts of each sense of usage q."""
    senses = (task.usage == q).nonzero()[:, 0].tolist()
    return [[task.texts[n] for n in task.text[task.sense == c].tolist()] for c in senses]


def test_the_usage_itself_is_no_part_of_its_sense() -> None:
    assert TASK.texts[int(TASK.asked[0])] == "he sat on the bank of the river"
    assert said(TASK, 0) == [
        ["an institution that keeps money", "she asked two banks for a loan of money"],
        ["sloping land beside water", "grass grows on riverbanks"],
    ]
    for q, usage in enumerate(TASK.usages):
        assert all(usage.text not in texts for texts in said(TASK, q))


def test_who_knows_is_always_right_and_ties_share() -> None:
    assert TASK.accuracy(TASK.gold.float()) == 1
    assert TASK.accuracy(-TASK.gold.float()) == 0
    assert TASK.accuracy(TASK.by_chance()) == 0.5
    assert TASK.accuracy(TASK.by_order()) == 0.5  # the second of the two of either word is asked


def test_lesk_counts_words_in_common() -> None:
    """`money` is in the example of the second usage and in a definition; nothing else is shared."""
    scores = TASK.by_overlap()
    assert scores.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert TASK.accuracy(scores) == (0.5 + 1 + 0.5 + 0.5) / 4


def test_vectors_that_know_the_meaning_find_it() -> None:
    meaning = {"water": 0, "river": 0, "money": 1, "rodent": 2, "cheese": 2, "hand": 3, "click": 3}
    vectors = torch.zeros(len(TASK.texts), 4)
    for n, text in enumerate(TASK.texts):
        for word, axis in meaning.items():
            vectors[n, axis] += word in text
    shifted = vectors + torch.tensor([5.0, 0, 0, 0])  # what all share tells nothing
    assert TASK.accuracy(TASK.by_vectors(vectors)) == 1
    assert TASK.accuracy(TASK.by_vectors(shifted)) == 1


def test_there_must_be_usages() -> None:
    with pytest.raises(InputError, match="no usages"):
        SenseTask.of([], WORDNET)
