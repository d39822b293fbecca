"""How often a model's most likely token is the one asked for, in all and by distance.

N texts, T tokens, A asked tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM
from state_core.training.probes.batch import IGNORED, ProbeBatch


@dataclass(frozen=True)
class DistanceScore:
    """Questions whose evidence stands `low` to `high` tokens back, and how many were right."""

    low: int
    high: int
    asked: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


@dataclass(frozen=True)
class ProbeScore:
    """All questions, and the same by distance: between powers of two, those with a question."""

    asked: int
    right: int
    by_distance: tuple[DistanceScore, ...]

    @property
    def accuracy(self) -> float:
        return self.right / self.asked

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "asked": self.asked,
            "accuracy": self.accuracy,
            "by_distance": [
                {"low": d.low, "high": d.high, "asked": d.asked, "accuracy": d.accuracy}
                for d in self.by_distance
            ],
        }


@torch.no_grad()
def probe_accuracy(model: SOSM, batches: Iterable[ProbeBatch]) -> ProbeScore:
    """Score a model, in evaluation mode, over batches. InputError if they ask nothing."""
    mode, device = model.training, next(model.parameters()).device
    model.eval()
    found = []
    try:
        for batch in batches:
            ids = batch.ids.to(device)
            found.append(_score(model.forward(ids), batch))
    finally:
        model.train(mode)
    if not found or not sum(len(right) for right, _ in found):
        raise InputError("nothing is asked in these batches, so that there is no accuracy")
    right, distance = (torch.cat(parts) for parts in zip(*found))
    return ProbeScore(len(right), int(right.sum()), _by_distance(right, distance))


def _score(out: SOSMOutput, batch: ProbeBatch) -> tuple[Tensor, Tensor]:
    """Whether each asked token was right, [A] bool, and its distance, [A]."""
    asked = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    rows, before = (index.to(out.hidden.device) for index in asked)
    guesses = out.logits_at(rows, before).argmax(-1).cpu()
    return guesses == batch.labels[:, 1:][asked], batch.distance[:, 1:][asked]


def _by_distance(right: Tensor, distance: Tensor) -> tuple[DistanceScore, ...]:
    bucket = distance.double().log2().floor().long()
    scores = []
    for k in bucket.unique().tolist():
        members = right[bucket == k]
        scores.append(DistanceScore(2**k, 2 ** (k + 1) - 1, len(members), int(members.sum())))
    return tuple(scores)
