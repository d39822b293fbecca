"""Sampling: filters, seeds, batches."""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.generation import filtered_probabilities
from tests.invariants.variants import build, text

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])


def test_filters() -> None:
    full = filtered_probabilities(LOGITS, 1.0, None, None)
    torch.testing.assert_close(full, LOGITS.softmax(-1))
    assert filtered_probabilities(LOGITS, 0, None, None).tolist() == [[1, 0, 0, 0, 0]]
    top2 = filtered_probabilities(LOGITS, 1.0, 2, None)
    assert (top2 > 0).tolist() == [[True, True, False, False, False]]
    torch.testing.assert_close(top2[0, 0] / top2[0, 1], full[0, 0] / full[0, 1])
    assert (filtered_probabilities(LOGITS, 1.0, None, 0.5) > 0).sum() == 1
    nucleus = filtered_probabilities(LOGITS, 1.0, None, 0.7)
    assert (nucleus > 0).tolist() == [[True, True, False, False, False]]
    for p in (full, top2, nucleus):
        torch.testing.assert_close(p.sum(-1), torch.ones(1))


def test_low_temperature_sharpens() -> None:
    cold = filtered_probabilities(LOGITS, 0.5, None, None)
    assert cold[0, 0] > filtered_probabilities(LOGITS, 1.0, None, None)[0, 0]


def test_a_seed_fixes_the_text_and_each_row_is_its_own() -> None:
    model = build("as recommended")
    prompts = text(3, 6)
    first = model.generate(prompts, max_new_tokens=12, seed=4)
    again = model.generate(prompts, max_new_tokens=12, seed=4)
    other = model.generate(prompts, max_new_tokens=12, seed=5)
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert isinstance(other, Tensor)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, :6], prompts)
    alone = model.generate(prompts[:1], max_new_tokens=12, seed=4)
    assert torch.equal(first[:1], alone)


def test_nothing_new_gives_the_prompt_back() -> None:
    model = build("as recommended").train()
    assert torch.equal(model.generate(text(2, 4), max_new_tokens=0), text(2, 4))
    assert model.training
