"""What peers say is what their definitions say, of the edges of the row."""

from __future__ import annotations

import sys

import pytest
import torch

from state_core.analysis.faithfulness import by_attention, faithfulness, row_of
from state_core.analysis.internals import run_with_cache
from state_core.analysis.interventions import intervene, mean, patch
from state_core.analysis.peers import (
    by_attention_and_votes,
    by_gradient_attention,
    by_integrated_gradients,
    peers,
)
from state_core.errors import MissingExtraError
from tests.invariants.variants import build, text

AT = 33


@pytest.mark.parametrize("name", ["as recommended", "phase6", "no pointer"])
def test_all_are_measured_on_the_same_edges(name: str) -> None:
    model, ids = build(name), text(1, 40)
    for method, scores in peers().items():
        found = scores(model, ids, AT, 3)
        assert found.shape == (len(row_of(model, ids, AT)),), method
        assert found.isfinite().all()
    curves = faithfulness(model, ids, [AT], peers())
    assert [c.method for c in curves] == list(peers())


def test_integrated_gradients_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all tokens they add up to what p gains on embeddings that are all alike."""
    model, ids = build("mixer mamba"), text(1, 12)
    everyone = list(range(12))
    monkeypatch.setattr("state_core.analysis.peers.row_of", lambda *_: everyone)
    total = float(by_integrated_gradients(model, ids, 11, 3).sum())
    with torch.no_grad(), intervene(model, mean("embed")):
        nothing = model(ids).last_logits.softmax(-1)[0, 3]
    want = float(model(ids).last_logits.softmax(-1)[0, 3] - nothing)
    assert total == pytest.approx(want, rel=0.05, abs=1e-4)


def test_gradients_of_attention_tell_what_a_little_less_of_it_does() -> None:
    model, ids = build("no pointer"), text(1, 40)
    name = "blocks.1.attn.pattern"
    scores = by_gradient_attention(model, ids, AT, 3)
    with torch.no_grad():
        _, cache = run_with_cache(model, ids[:, : AT + 1], name)

    def p(factor: float, e: int) -> float:
        pattern = cache[name].clone()
        pattern[0, :, AT, e] *= factor
        with torch.no_grad(), intervene(model, patch(name, pattern)):
            return float(model(ids[:, : AT + 1]).last_logits.softmax(-1)[0, 3])

    for e in (0, 2, 4):
        slope = (p(1.1, e) - p(0.9, e)) / 0.2
        assert float(scores[e]) == pytest.approx(slope, rel=0.05, abs=1e-5)


def test_votes_are_one_head_more() -> None:
    model, ids = build("as recommended"), text(1, 40)
    count = len(row_of(model, ids, AT))
    share = model(ids).votes.log_share[0, AT, 1 : 1 + count].exp()
    heads = model.config.attention.n_heads
    want = (heads * by_attention(model, ids, AT, 3) + share) / (heads + 1)
    torch.testing.assert_close(by_attention_and_votes(model, ids, AT, 3), want)
    plain = build("no pointer")
    torch.testing.assert_close(
        by_attention_and_votes(plain, ids, AT, 3), by_attention(plain, ids, AT, 3)
    )


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[analysis\]"):
        by_integrated_gradients(build("no pointer"), text(1, 20), 15, 3)
