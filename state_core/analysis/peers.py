"""Explanations that others would give of a prediction, as scores of the row's edges.

Each is a `faithfulness.Scores`, so that all are measured alike:

    faithfulness(model, ids, positions, {**methods(), **peers()})

E edges of a row, H heads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from state_core.analysis.faithfulness import Scores, row_of
from state_core.analysis.internals import run_with_cache
from state_core.analysis.interventions import edit, intervene
from state_core.errors import MissingExtraError
from state_core.pipeline import SOSM

STEPS = 16  # of captum's integral


def by_integrated_gradients(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Integrated gradients (arXiv 1703.01365) as captum computes them, of the embeddings in the
    graph that the text has: from their mean over the text, since near zero a norm makes all of any
    embedding. An edge gets what the token that it leads to gets. MissingExtraError without captum.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise MissingExtraError("captum", "analysis", "integrated gradients") from None
    seen = ids[:, : position + 1]
    with torch.no_grad():
        _, cache = run_with_cache(model, seen, "embed")

    def probability(embedded: Tensor) -> Tensor:
        with intervene(model, edit("embed", lambda _: embedded)):
            logits = model(seen.expand(len(embedded), -1)).last_logits
        return logits.softmax(-1)[:, token]

    with torch.enable_grad():
        x = cache["embed"]
        mean = x.mean(1, keepdim=True).expand_as(x)
        given: Any = IntegratedGradients(probability).attribute(x, mean, n_steps=STEPS)
    by_token: Tensor = given.sum(-1)[0].float()
    return by_token[row_of(model, ids, position)]


def by_gradient_attention(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Attention times the gradient of p by it (cf. Chefer et al., arXiv 2103.15679), over all
    layers and heads."""
    seen, names = ids[:, : position + 1], "blocks.*.attn.pattern"
    with torch.no_grad():
        _, cache = run_with_cache(model, seen, names)
    with torch.enable_grad():
        patterns = {name: pattern.requires_grad_() for name, pattern in cache.items()}
        changes = (edit(name, partial(_instead, pattern)) for name, pattern in patterns.items())
        with intervene(model, *changes):
            p = model(seen).last_logits.softmax(-1)[0, token]
        slopes = torch.autograd.grad(p, list(patterns.values()))
    count = len(row_of(model, ids, position))
    terms = [
        (a * g)[0, :, position, :count] for a, g in zip(patterns.values(), slopes, strict=True)
    ]
    return torch.cat(terms).sum(0).detach()


def by_attention_and_votes(model: SOSM, ids: Tensor, position: int, token: int) -> Tensor:
    """Raw attention with the pointer head as one head more: its share of each edge, whatever word
    the edge votes for."""
    with torch.no_grad():
        out, cache = run_with_cache(model, ids, "blocks.*.attn.pattern")
    count = len(row_of(model, ids, position))
    heads = [pattern[0, :, position, :count] for pattern in cache.values()]
    if out.votes is not None:
        heads.append(out.votes.log_share[0, position, 1 : 1 + count].exp()[None])
    return torch.cat(heads).mean(0)


def peers() -> dict[str, Scores]:
    """All of them by name."""
    return {
        "attention and votes": by_attention_and_votes,
        "gradient × attention": by_gradient_attention,
        "integrated gradients": by_integrated_gradients,
    }


def _instead(pattern: Tensor, _: Tensor) -> Tensor:
    return pattern
