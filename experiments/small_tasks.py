"""Probes as claims ask for them: small models of one size, trained on a task for a while.

The lessons of a task begin with short texts; what is scored is its last stage (see `probe_runs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from experiments.ledger import Measured, Setting
from experiments.probe_runs import Run, Task
from experiments.probes import SMALL
from state_core.config import SOSMConfig
from state_core.training.probes import MQAR, Needle

STEPS = 10  # of a probe, for one of a language model: its texts are short, and its models small
LENGTHS = (16, 64)
BATCH = 16
RATE = 3e-3

RECALL = Task("mqar", tuple(MQAR(n, pairs=n // 8, vocab_size=64) for n in LENGTHS))
NEEDLE = Task("needle", tuple(Needle(n, distance=n // 2, vocab_size=64) for n in LENGTHS))


def small(preset: str, task: Task, changes: Mapping[str, Any]) -> SOSMConfig:
    """A preset at a probe's size, for the task's vocabulary."""
    values = {**SMALL, "vocab_size": task.probe.vocab_size, "train.consecutive": False}
    return SOSMConfig.preset(preset).override({**values, **changes})


def accuracies(setting: Setting, task: Task, arms: Mapping[str, SOSMConfig]) -> Measured:
    """Each arm's accuracy on a task, in percent, seed by seed; what was trained before is read."""
    torch.set_num_threads(setting.threads)
    shared = {
        "train.steps": STEPS * setting.steps,
        "train.seq_len": LENGTHS[-1],
        "train.batch_size": BATCH,
        "train.eval_batches": 16,
        "train.lr": RATE,
    }
    return {
        arm: [
            100 * _run(setting, task, arm, config.override({**shared, "train.seed": seed}))
            for seed in setting.seeds
        ]
        for arm, config in arms.items()
    }


def _run(setting: Setting, task: Task, arm: str, config: SOSMConfig) -> float:
    result = Run(task, arm, config).result(setting.folder / "probes")
    setting.data.add(result["data_hash"])
    accuracy: float = result["test"]["accuracy"]
    return accuracy
