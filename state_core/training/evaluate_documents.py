"""Perplexity over long texts, read segment by segment with a memory filling behind.

T tokens of a segment, N of the text. A segment begins with the last token of the one before, so
that every token but the first is predicted once, whatever is remembered: evaluations with
different memories score the same targets.

A target is a *recall* token if its bigram occurred earlier in its segment (see training.evaluate),
*distant* if it occurred only in earlier segments: there, nothing but memory can help.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.audit import CausalityReport, audit_causality
from state_core.errors import CausalityError, InputError
from state_core.pipeline import SOSM
from state_core.training.batches import require_window
from state_core.training.evaluate import Evaluation, Score, recall_mask
from state_core.training.segments import document_numbers

OTHER, RECALL, DISTANT = range(3)
FIRST_EDGE = 1 << 12


def evaluate_documents(
    model: SOSM,
    tokens: NDArray[np.int64],
    *,
    remember: int = 0,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    recall_window: int | None = None,
    end: int | None = None,
    report: CausalityReport | None = None,
    progress: Callable[[int, int], None] = lambda read, of: None,
) -> Evaluation:
    """Audit a model, then score it over a row of tokens [N], remembering the last `remember`.

    Sizes default to the model's configuration. end: the end-of-document token, by which memory
    knows documents apart; report: an audit made already; progress: called with the tokens read and
    of how many. CausalityError if the model sees what it predicts; InputError for a negative
    `remember`.
    """
    report = report or audit_causality(model)
    if not report.passed:
        raise CausalityError(f"no perplexity is given.\n{report}")
    window = model.config.graph.window if recall_window is None else recall_window
    return score_documents(
        model,
        tokens[:max_tokens],
        remember=remember,
        seq_len=seq_len or model.config.train.seq_len,
        recall_window=window,
        end=end,
        progress=progress,
    )


@torch.no_grad()
def score_documents(
    model: SOSM,
    tokens: NDArray[np.int64],
    *,
    remember: int,
    seq_len: int,
    recall_window: int,
    end: int | None = None,
    progress: Callable[[int, int], None] = lambda read, of: None,
) -> Evaluation:
    """The scores alone, without an audit: what a training run watches."""
    if remember < 0 or seq_len < 2:
        raise InputError(
            f"give remember ≥ 0 and segments of at least 2 tokens, got {remember} and {seq_len}"
        )
    require_window(tokens, 2, "the text to evaluate on")
    device = next(model.parameters()).device
    memory = model.new_memory(capacity=remember) if remember else None
    documents = torch.from_numpy(document_numbers(tokens, -1 if end is None else end))
    row, seen = torch.from_numpy(tokens), _first_seen(tokens)
    nll, kinds = torch.zeros(len(row) - 1, dtype=torch.float64), torch.zeros(len(row) - 1).long()
    mode = model.training
    model.eval()
    try:
        for start in range(0, len(row) - 1, seq_len - 1):
            part = slice(start, min(start + seq_len, len(row)))
            ids, targets = row[None, part], slice(part.start, part.stop - 1)
            out = model(ids.to(device), labels=ids.to(device), memory=memory)
            assert out.token_nll is not None
            nll[targets] = out.token_nll[0].double().cpu()
            kinds[targets] = torch.where(seen[targets] < start, DISTANT, OTHER)
            kinds[targets][recall_mask(ids, recall_window)[0]] = RECALL
            if memory is not None:
                memory.append(ids, out.keepsake, documents[None, part])
            progress(part.stop, len(row))
    finally:
        model.train(mode)
    return _evaluation(nll, kinds, seq_len)


def _first_seen(tokens: NDArray[np.int64]) -> Tensor:
    """Where the bigram that ends in each target first began, [N−1]."""
    bigrams = tokens[:-1] * (int(tokens.max()) + 1) + tokens[1:]
    _, first, which = np.unique(bigrams, return_index=True, return_inverse=True)
    return torch.from_numpy(first[which])


def _evaluation(nll: Tensor, kinds: Tensor, seq_len: int) -> Evaluation:
    def score(name: str, chosen: Tensor) -> Score:
        return Score(name, int(chosen.sum()), float(nll[chosen].sum()))

    place = torch.arange(1, len(nll) + 1)
    edges = [1, *(2**k for k in range(63) if FIRST_EDGE <= 2**k <= len(nll)), len(nll) + 1]
    return Evaluation(
        overall=score("overall", place > 0),
        recall=score("recall", kinds == RECALL),
        distant=score("distant", kinds == DISTANT),
        other=score("other", kinds == OTHER),
        by_position=tuple(
            score(f"text {a}–{b - 1}", (place >= a) & (place < b))
            for a, b in itertools.pairwise(edges)
        ),
        windows=-(-len(nll) // (seq_len - 1)),
        seq_len=seq_len,
    )
