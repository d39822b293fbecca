"""Shares add up to 1, `rest` is what is left without votes, and the gates tell the slope of p."""

from __future__ import annotations

import pytest
import torch

from state_core.analysis.edge_gates import edge_shares
from state_core.errors import InputError
from tests.invariants.variants import build, text

NAMES = ["as recommended", "phase6", "no pointer", "all of the graph", "temporal gate"]


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_the_row_add_up_to_one(name: str) -> None:
    model, ids = build(name), text(1, 40)
    tree = edge_shares(model, ids, 30)
    assert tree.share == 1
    assert sum(part.share for part in tree.parts) == pytest.approx(1, abs=1e-12)
    row = model(ids, return_graph=True).graph.rows(0, 30).neighbors.tolist()
    assert [p.path for p in tree.parts] == ["rest", *(f"edge to {j}" for j in row)]


def test_rest_is_what_is_left_when_no_edge_votes() -> None:
    """Attention shares out all it has whatever the gates are, if all are equally open."""
    model, ids = build("as recommended"), text(1, 40)
    with torch.no_grad():
        out = model(ids)
    for position in (20, 27, 33):
        rest = edge_shares(model, ids, position).parts[0].share
        p = out.logits[0, position].double().softmax(-1)
        token = int(p.argmax())
        with torch.no_grad():
            silent = out.vocabulary_logits(out.hidden[0, position]).double().softmax(-1)[token]
        assert rest == pytest.approx(float(silent / p[token]), abs=0.02)


def test_an_edge_that_votes_for_another_word_takes_away() -> None:
    """With the pointer alone at the end of a model, the sign is that of the vote."""
    model, ids = build("mixer mamba"), text(1, 40)
    out = model(ids, return_graph=True)
    token = int(out.logits[0, 33].argmax())
    words = dict(
        zip(out.graph.rows(0, 33).neighbors.tolist(), out.votes.words[0, 33].tolist(), strict=False)
    )
    for part in edge_shares(model, ids, 33, token).parts[1:]:
        j = int(part.path.removeprefix("edge to "))
        if words[j] >= 0:
            assert (part.share > 0) == (words[j] == token)


def test_the_model_is_as_it_was() -> None:
    model, ids = build("phase6"), text(1, 40)
    before = model(ids).logits
    edge_shares(model, ids, 30)
    assert torch.equal(before, model(ids).logits)
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_named() -> None:
    model = build("as recommended")
    with pytest.raises(InputError, match="one text"):
        edge_shares(model, text(2, 20), 3)
    with pytest.raises(InputError, match="position 20 is out of range"):
        edge_shares(model, text(1, 20), 20)
    with pytest.raises(InputError, match="token 99 is out of range"):
        edge_shares(model, text(1, 20), 3, 99)
    with pytest.raises(InputError, match="a graph"):
        edge_shares(build("mixer attention, no graph"), text(1, 20), 3)
