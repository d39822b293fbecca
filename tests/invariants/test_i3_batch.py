"""I3: a row in a batch gives what the row alone gives; padding changes nothing."""

from __future__ import annotations

import pytest
import torch

from tests.invariants.variants import VARIANTS, build, text


@pytest.mark.parametrize("name", VARIANTS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    model, ids = build(name), text(5, 33)
    with torch.no_grad():
        batch = model(ids, return_graph=True)
        for b in range(len(ids)):
            alone = model(ids[b : b + 1], return_graph=True)
            torch.testing.assert_close(batch.logits[b], alone.logits[0], rtol=1e-4, atol=1e-5)
            if batch.graph is not None and alone.graph is not None:
                assert torch.equal(batch.graph.neighbors[b], alone.graph.neighbors[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    model, ids = build(name), text(3, 40)
    short = ids[:, :23]
    labels = ids.clone()
    labels[:, 23:] = -100
    with torch.no_grad():
        padded, exact = model(ids, labels=labels), model(short, labels=short)
    torch.testing.assert_close(padded.logits[:, :23], exact.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.loss, exact.loss, rtol=1e-5, atol=1e-5)
