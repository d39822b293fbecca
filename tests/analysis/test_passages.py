"""Predictions are chosen for their passages, and shares are those of the model."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM
from state_core.analysis.passages import (
    concordance,
    is_whole_word,
    prediction_html,
    telling_predictions,
)
from state_core.output import SOSMOutput
from tests.analysis.conftest import spell


@pytest.fixture
def foreseen(model: SOSM) -> tuple[SOSMOutput, torch.Tensor]:
    """Texts that continue as the model expects, with a pointer head that speaks up."""
    with torch.no_grad():
        model.pointer.vocabulary.bias.fill_(-1.0)
        ids = model.generate(torch.randint(64, (2, 30)), 40, temperature=0)
        return model(ids, return_graph=True), ids


def test_chosen_predictions_are_right_and_explained(foreseen):
    out, ids = foreseen
    found = telling_predictions(out, ids, spell, recalled=3, spoken=1)
    assert found
    words = [p.here.word for p in found]
    assert len(set(words)) == len(words)
    for p in found:
        assert sum(source.share for source in p.passages) == pytest.approx(1, abs=1e-6)
        votes = [s for s in p.passages if s.where is not None]
        assert {s.where.word for s in votes} <= {p.here.word}
        assert all(s.distance > 0 for s in votes)


def test_the_first_owe_most_to_their_passages(foreseen):
    out, ids = foreseen
    found = telling_predictions(out, ids, spell, recalled=4, spoken=0)
    owed = [p.probability * sum(s.share for s in p.passages if s.where) for p in found]
    assert owed == sorted(owed, reverse=True)
    assert owed[0] > 0


def test_nothing_to_say_without_a_pointer(model, ids):
    plain = SOSM(model.config.override({"pointer.enabled": False})).eval()
    assert telling_predictions(plain(ids, return_graph=True), ids, spell) == []


def test_concordance_is_one_line():
    pieces = ["To", " be", ",\n", "or", " not", " to", " be"]
    assert vars(concordance(pieces, 4)) == {"left": "To be, or", "word": "not", "right": " to be"}


def test_whole_words():
    pieces = [" whole", " part", "ial", " tiny", " ends", "!", " end"]
    assert [is_whole_word(pieces, i) for i in range(7)] == [
        True, False, False, True, True, False, False,
    ]  # fmt: skip


def test_markup_in_the_text_is_shown_as_text(foreseen):
    out, ids = foreseen

    def hostile(row: list[int]) -> list[str]:
        return [" <script>" if n % 3 == 2 else name for n, name in enumerate(spell(row))]

    found = telling_predictions(out, ids, hostile, recalled=1, spoken=0)
    markup = "".join(prediction_html(p) for p in found)
    assert "&lt;script&gt;" in markup
    assert "<script" not in markup
