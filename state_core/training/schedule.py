"""The learning rate: linear warm-up, then half a cosine (Loshchilov and Hutter, 1608.03983)."""

from __future__ import annotations

import math

from state_core.config import TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """The rate of the update that takes the model from `step` to `step + 1` updates.

    Rises to `train.lr`, then falls towards `train.lr · min_lr_ratio`, where it stays after the last
    step. Positive at every step of a run of any length.
    """
    warmup = min(train.warmup, train.steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    decay = train.steps - warmup
    progress = min(1.0, (step - warmup) / decay) if decay else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr * (train.min_lr_ratio + (1 - train.min_lr_ratio) * cosine)
