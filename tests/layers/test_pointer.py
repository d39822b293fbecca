"""The pointer head finds what followed last time, and its loss is the mixture's."""

from __future__ import annotations

import torch

from state_core.layers.pointer import mixture_logits, target_logprob, voting_edges
from tests.invariants.variants import build, text


def test_target_share_equals_the_scattered_mixture() -> None:
    model, ids = build("as recommended", dtype=torch.float64), text(2, 50)
    with torch.no_grad():
        out = model(ids, return_graph=True)
        assert out.votes is not None
        vocabulary = model.embedding.logits(out.hidden)
        targets = torch.randint(53, ids.shape)
        own = vocabulary.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        share = target_logprob(out.votes, own.double(), targets)
        full = mixture_logits(out.votes, vocabulary)
    torch.testing.assert_close(
        share, full.gather(-1, targets[..., None])[..., 0].to(share.dtype), rtol=1e-4, atol=1e-5
    )


def test_edges_vote_only_for_words_already_read() -> None:
    model, ids = build("as recommended"), text(2, 50)
    with torch.no_grad():
        out = model(ids, return_graph=True)
    assert out.graph is not None
    assert out.votes is not None
    votes = voting_edges(out.graph)
    b, t, e = votes.nonzero().T
    target = out.graph.neighbors[b, t, e].long()
    assert bool((target < t).all())
    assert torch.equal(out.votes.words[b, t, e], ids[b, target + 1])
    assert bool((out.votes.words[~votes] == -1).all())


def test_gradients_reach_the_similarity() -> None:
    model, ids = build("as recommended").train(), text(2, 50)
    loss = model(ids, labels=ids).loss
    assert loss is not None
    loss.backward()
    assert model.pointer is not None
    for parameter in (model.mu.token.weight, model.mu.local.weight, model.pointer.similarity_scale):
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any())
