"""Perplexity: overall, by position in the context, and on what recall could predict.

B batch, T tokens of a window; the token at position t+1 is predicted from positions 0 … t.

A target is a *recall* token if the bigram (x_t, x_{t+1}) occurred earlier in the same window and
outside the sequential window w: there is a j < t − w with x_j = x_t and x_{j+1} = x_{t+1}. A model
that finds j can copy its successor (Zoology, arXiv 2312.04927). All models are scored on the same
targets, whether they have a sequential window or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.audit import CausalityReport, audit_causality
from state_core.errors import CausalityError, InputError
from state_core.pipeline import SOSM
from state_core.training.batches import windows

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Score:
    """Summed negative log-likelihood, in nats, of some tokens."""

    name: str
    tokens: int
    nll: float

    @property
    def loss(self) -> float:
        """Mean per token; NaN if there are no tokens."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON; loss and perplexity are None if there are no tokens."""
        known = self.tokens > 0
        return {
            "name": self.name,
            "tokens": self.tokens,
            "loss": self.loss if known else None,
            "perplexity": self.perplexity if known else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores over the same windows; `recall`, `distant` (where a text is read on from segment to
    segment) and `other` divide them, and so do the positions."""

    overall: Score
    recall: Score
    other: Score
    by_position: tuple[Score, ...]
    windows: int
    seq_len: int
    distant: Score | None = None

    @property
    def scores(self) -> tuple[Score, ...]:
        """All of them, as the rows of a table."""
        distant = () if self.distant is None else (self.distant,)
        return (self.overall, self.recall, *distant, self.other, *self.by_position)

    def to_dict(self) -> dict[str, Any]:
        return {
            "windows": self.windows,
            "seq_len": self.seq_len,
            "scores": [score.to_dict() for score in self.scores],
        }


def evaluate(
    model: SOSM,
    tokens: NDArray[np.int64],
    *,
    seq_len: int | None = None,
    batch_size: int | None = None,
    max_batches: int | None = None,
    recall_window: int | None = None,
    report: CausalityReport | None = None,
) -> Evaluation:
    """Audit a model, then score it over the non-overlapping windows of a row of tokens.

    Sizes default to the model's configuration, `recall_window` to its sequential window. report: an
    audit made already. CausalityError if the model sees what it predicts; DataError if the text is
    shorter than one window.
    """
    report = report or audit_causality(model)
    if not report.passed:
        raise CausalityError(f"no perplexity is given.\n{report}")
    return score_windows(
        model,
        tokens,
        seq_len=seq_len or model.config.train.seq_len,
        batch_size=batch_size or model.config.train.batch_size,
        max_batches=max_batches,
        recall_window=model.config.graph.window if recall_window is None else recall_window,
    )


@torch.no_grad()
def score_windows(
    model: SOSM,
    tokens: NDArray[np.int64],
    *,
    seq_len: int,
    batch_size: int,
    recall_window: int,
    max_batches: int | None = None,
    autocast: Autocast = nullcontext,
) -> Evaluation:
    """The scores alone, without an audit: what a training run watches."""
    if model.config.objective != "next_token":
        raise CausalityError("an encoder sees the words it would be scored on")
    if seq_len < 2:
        raise InputError(f"an evaluation needs windows of at least 2 tokens, got {seq_len}")
    device = next(model.parameters()).device
    edges = position_edges(seq_len)
    bucket = torch.bucketize(torch.arange(1, seq_len), torch.tensor(edges[1:]), right=True)
    sums = _Sums(len(edges))
    mode = model.training
    model.eval()
    try:
        for n, ids in enumerate(windows(tokens, seq_len, batch_size, "the text to evaluate on")):
            if n == max_batches:
                break
            with autocast():
                ids = ids.to(device)
                nll = model.forward(ids, labels=ids).token_nll
            assert nll is not None
            sums.add(nll.double().cpu(), recall_mask(ids.cpu(), recall_window), bucket)
    finally:
        model.train(mode)
    return sums.evaluation(edges, seq_len)


def recall_mask(ids: Tensor, window: int) -> Tensor:
    """Which targets [B,T−1] of windows [B,T] repeat a bigram from outside the sequential window.

    True at t if some j < t − window has (x_j, x_{j+1}) = (x_t, x_{t+1}).
    """
    keys = ids[:, :-1] * (int(ids.max()) + 1) + ids[:, 1:]
    ordered, index = keys.sort(dim=1, stable=True)
    place = torch.arange(keys.shape[1]).expand_as(keys)
    starts = torch.ones_like(keys, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Equal bigrams lie side by side in order of position: the first of them is the farthest back.
    first = index.gather(1, torch.where(starts, place, 0).cummax(dim=1).values)
    farthest = torch.empty_like(first).scatter_(1, index, first)
    return farthest < place - window


def position_edges(seq_len: int) -> list[int]:
    """Where the buckets of context length begin: 1, 16, 32, 64, … below `seq_len`."""
    return [1, *(2**k for k in range(4, 63) if 2**k < seq_len)]


class _Sums:
    """Token counts and summed nll by bucket of position, recall tokens apart."""

    def __init__(self, buckets: int) -> None:
        self.count = torch.zeros(2, buckets, dtype=torch.int64)
        self.nll = torch.zeros(2, buckets, dtype=torch.float64)
        self.windows = 0

    def add(self, nll: Tensor, recall: Tensor, bucket: Tensor) -> None:
        cell = recall.long() * self.count.shape[1] + bucket
        cells = self.count.numel()
        self.count += torch.bincount(cell.flatten(), minlength=cells).view_as(self.count)
        weighted = torch.bincount(cell.flatten(), nll.flatten(), minlength=cells)
        self.nll += weighted.view_as(self.nll)
        self.windows += len(nll)

    def evaluation(self, edges: list[int], seq_len: int) -> Evaluation:
        def score(name: str, rows: slice, columns: slice) -> Score:
            cells = (rows, columns)
            return Score(name, int(self.count[cells].sum()), float(self.nll[cells].sum()))

        every = slice(None)
        ends = [*(edge - 1 for edge in edges[1:]), seq_len - 1]
        return Evaluation(
            overall=score("overall", every, every),
            recall=score("recall", slice(1, 2), every),
            other=score("other", slice(0, 1), every),
            by_position=tuple(
                score(f"context {a}–{b}", every, slice(i, i + 1))
                for i, (a, b) in enumerate(zip(edges, ends, strict=True))
            ),
            windows=self.windows,
            seq_len=seq_len,
        )
