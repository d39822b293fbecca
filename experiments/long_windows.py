"""The same targets scored after texts of several lengths: what reading further back is worth.

N windows, T tokens as in training. Each window of 8T tokens lies in one document, and its targets
are the last T − 1 tokens; at length L the model reads the last L tokens of that window. At L = T
that is a whole window as in training, whose first token nothing predicts.

Targets are told apart by where recall could find them: *near*, the token's pair with the one before
it occurred in the last T tokens; *far*, it occurred in the 8T, but not in the last T; and *other*.
Only far targets have something to find in a longer text that T tokens do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.audit import audit_causality
from state_core.errors import CausalityError, DataError
from state_core.pipeline import SOSM
from state_core.training.evaluate import recall_mask

FACTORS = (1, 2, 4, 8)
KINDS = ("overall", "near", "far", "other")


def long_windows(documents: Sequence[NDArray[np.int64]], seq_len: int, most: int | None) -> Tensor:
    """Windows [N, 8T] that lie in one document each and whose last T tokens do not overlap.

    most: take so many, evenly spread over all. DataError if no document is as long as a window.
    """
    longest = FACTORS[-1] * seq_len
    found = [
        ids[end - longest : end]
        for ids in documents
        for end in range(longest, len(ids) + 1, seq_len)
    ]
    if not found:
        held = max((len(ids) for ids in documents), default=0)
        raise DataError(
            f"no held-out document holds {longest} tokens, {FACTORS[-1]} times the training "
            f"length; the longest has {held}. Train on shorter windows or take longer documents"
        )
    if most is not None and most < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]
    return torch.from_numpy(np.stack(found))


def kinds_of(windows: Tensor, seq_len: int, near_enough: int) -> dict[str, Tensor]:
    """Masks over the targets [N, T−1], by kind; near_enough: the sequential window."""
    near = recall_mask(windows[:, -seq_len:], near_enough)
    far = recall_mask(windows, near_enough)[:, -(seq_len - 1) :] & ~near
    return {"overall": torch.ones_like(near), "near": near, "far": far, "other": ~(near | far)}


@torch.no_grad()
def target_losses(model: SOSM, windows: Tensor, seq_len: int, factor: int) -> Tensor:
    """Nats of each target [N, T−1], after reading factor · T tokens of each window."""
    rows = max(1, model.config.train.batch_size // factor)
    found = []
    for ids in windows[:, -factor * seq_len :].split(rows):
        nll = model(ids, labels=ids).token_nll
        assert nll is not None
        found.append(nll[:, -(seq_len - 1) :].double())
    return torch.cat(found)


def score(model: SOSM, windows: Tensor, seq_len: int, near_enough: int) -> list[dict[str, Any]]:
    """The loss by kind at each length; CausalityError if the model sees what it predicts."""
    report = audit_causality(model)
    if not report.passed:
        raise CausalityError(f"no perplexity is given.\n{report}")
    model.eval()
    masks = kinds_of(windows, seq_len, near_enough)
    found = []
    for factor in FACTORS:
        losses = target_losses(model, windows, seq_len, factor)
        kinds = {name: float(losses[mask].mean()) for name, mask in masks.items() if mask.any()}
        found.append({"factor": factor, "length": factor * seq_len, "loss": kinds})
    return found
