"""Scoring a model: what counts as right, and at which distance."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM
from state_core.errors import InputError
from state_core.training.probes import Induction, ProbeBatch, probe_accuracy
from tests.invariants.variants import build

PROBE = Induction(length=40, vocab_size=53, prefixes=3, repeats=2)


@pytest.fixture
def model() -> SOSM:
    return build("as recommended")


def test_it_counts_as_a_loop_over_the_logits_does(model: SOSM) -> None:
    batches = [PROBE.batch(3, seed) for seed in range(2)]
    model.train()
    score = probe_accuracy(model, batches)
    assert model.training
    model.eval()
    right: dict[int, list[bool]] = {}
    for batch in batches:
        guesses = model(batch.ids).logits.argmax(-1)
        for row, t in (batch.labels != -100).nonzero().tolist():
            distance = int(batch.distance[row, t])
            hit = bool(guesses[row, t - 1] == batch.ids[row, t])
            right.setdefault(distance.bit_length() - 1, []).append(hit)
    found = {d.low.bit_length() - 1: (d.asked, d.right) for d in score.by_distance}
    assert found == {k: (len(hits), sum(hits)) for k, hits in right.items()}
    assert score.asked == 2 * 3 * 6
    assert score.right == sum(d.right for d in score.by_distance)
    assert all(d.high == 2 * d.low - 1 for d in score.by_distance)


def test_a_model_that_is_told_is_right(model: SOSM) -> None:
    """Asked for what it would say itself, a model is right; asked for anything else, wrong."""
    batch = PROBE.batch(2, 0)
    model.eval()
    guesses = torch.roll(model(batch.ids).logits.argmax(-1), 1, dims=1)
    asked = batch.labels != -100
    told = ProbeBatch(batch.ids, torch.where(asked, guesses, -100), batch.distance)
    wrong = ProbeBatch(batch.ids, torch.where(asked, (guesses + 1) % 53, -100), batch.distance)
    assert probe_accuracy(model, [told]).accuracy == 1
    assert probe_accuracy(model, [wrong]).accuracy == 0
    assert probe_accuracy(model, [told, wrong]).to_dict()["accuracy"] == 0.5


def test_nothing_asked_has_no_accuracy(model: SOSM) -> None:
    batch = PROBE.batch(1, 0)
    silent = ProbeBatch(batch.ids, torch.full_like(batch.ids, -100), batch.distance)
    for batches in ([], [silent]):
        with pytest.raises(InputError, match="nothing is asked"):
            probe_accuracy(model, batches)


def test_logits_of_chosen_tokens_are_those_of_all(model: SOSM) -> None:
    out = model.eval()(PROBE.batch(3, 0).ids)
    texts, tokens = torch.tensor([0, 2, 2]), torch.tensor([5, 0, 39])
    torch.testing.assert_close(out.logits_at(texts, tokens), out.logits[texts, tokens])
