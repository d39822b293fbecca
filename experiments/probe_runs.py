"""One run on a probe: train a model from scratch on it, score it, and count what state it carries.

The text grows while a model learns: the stages of a task have equal shares of the steps, so that
what is asked for is first found near by. All arms read the same texts in the same order, and a run
stops early when it answers everything in some texts of the task itself: how many steps that took is
part of the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from state_core import SOSM, SOSMConfig, audit_causality
from state_core.atomic import atomic_write_json
from state_core.errors import CausalityError, TrainingError
from state_core.training.optim import build_optimizer, set_learning_rate
from state_core.training.probes import Probe, ProbeBatch, probe_accuracy
from state_core.training.schedule import learning_rate

# Seeds of texts: each training seed has a range of its own, and nothing is scored on a text that a
# model was trained on or a rate was chosen by.
PER_SEED, WATCHED, VALID, TEST = 10**7, 7 * 10**6, 8 * 10**6, 9 * 10**6
CHECKED = 8  # batches that decide whether a model may stop
HASHED = 20  # batches of training whose bytes are compared across arms
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Task:
    """What is learned, stage by stage, and at last scored: the last stage is the task itself."""

    name: str
    stages: tuple[Probe, ...]

    @property
    def probe(self) -> Probe:
        return self.stages[-1]

    def batch(self, step: int, config: SOSMConfig) -> ProbeBatch:
        """The texts of a training step, as many as make up the tokens of a batch."""
        train = config.train
        stage = self.stages[step * len(self.stages) // train.steps]
        texts = max(1, train.batch_size * train.seq_len // stage.length)
        return stage.batch(texts, PER_SEED * train.seed + step)

    def held_out(
        self, config: SOSMConfig, first: int, batches: int | None = None
    ) -> Iterator[ProbeBatch]:
        """Texts of the task itself that no model is trained on."""
        train = config.train
        for n in range(train.eval_batches if batches is None else batches):
            yield self.probe.batch(train.batch_size, PER_SEED * train.seed + first + n)


@dataclass(frozen=True)
class Run:
    """An arm on a task, at the seed and the learning rate of its configuration."""

    task: Task
    arm: str
    config: SOSMConfig

    @property
    def name(self) -> str:
        train = self.config.train
        arm = re.sub(r"\W+", "-", self.arm)
        return f"{self.task.name}_{arm}_lr{train.lr:g}_seed{train.seed}_{self._digest}"

    @property
    def _digest(self) -> str:
        """Changes with anything that the result depends on, so that no other run is mistaken for
        this one."""
        said = json.dumps(self.config.to_dict(), sort_keys=True) + repr(self.task)
        return hashlib.sha256(said.encode()).hexdigest()[:8]

    def result(self, out: Path, watch: Watch = lambda step, loss: None) -> dict[str, Any]:
        """Train and score, or read what an earlier run found. TrainingError if training diverges,
        CausalityError if the model sees what it is asked for."""
        path = out / f"{self.name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        began = time.perf_counter()
        model, steps, data_hash = train_on(self.task, self.config, watch)
        seconds = time.perf_counter() - began
        audit = audit_causality(model)
        if not audit.passed:
            raise CausalityError(f"{self.name}: no accuracy is given.\n{audit}")
        found = {
            "task": self.task.name,
            "probe": repr(self.task.probe),
            "arm": self.arm,
            "seed": self.config.train.seed,
            "lr": self.config.train.lr,
            "steps": steps,
            "parameters": model.num_parameters(),
            "state": carried(model, self.task.probe.length),
            "valid_loss": held_out_loss(model, self.task),
            "test": probe_accuracy(model, self.task.held_out(self.config, TEST)).to_dict(),
            "data_hash": data_hash,
            "seconds": seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, found)
        return found


def train_on(task: Task, config: SOSMConfig, watch: Watch) -> tuple[SOSM, int, str]:
    """A model trained on the labels alone, its steps, and the hash of the first texts it read."""
    train = config.train
    torch.manual_seed(train.seed)
    model = SOSM(config).train()
    optimizer = build_optimizer(model, train)
    read = hashlib.sha256()
    for step in range(train.steps):
        batch = task.batch(step, config)
        if step < HASHED:
            read.update(batch.ids.numpy().tobytes())
        loss = model(batch.ids, labels=batch.labels).loss
        nats = float(loss.detach())
        if not math.isfinite(nats):
            raise TrainingError(
                f"step {step + 1}: the loss is {nats}. Try a lower learning rate than {train.lr:g}"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
        set_learning_rate(optimizer, learning_rate(step, train))
        optimizer.step()
        optimizer.zero_grad()
        watch(step + 1, nats)
        if (step + 1) % train.eval_every == 0 and solves(model, task):
            break
    return model.eval(), step + 1, read.hexdigest()


def solves(model: SOSM, task: Task) -> bool:
    """Whether a model answers everything in a few texts of the task itself."""
    return probe_accuracy(model, task.held_out(model.config, WATCHED, CHECKED)).accuracy == 1


@torch.no_grad()
def held_out_loss(model: SOSM, task: Task) -> float:
    """Mean loss of what is asked for; what a learning rate is chosen by."""
    losses = [
        float(model(batch.ids, labels=batch.labels).loss)
        for batch in task.held_out(model.config, VALID)
    ]
    return math.fsum(losses) / len(losses)


@torch.no_grad()
def carried(model: SOSM, length: int) -> dict[str, Any]:
    """The state that a model carries after `length` tokens."""
    cache = model.new_cache()
    model(torch.arange(length)[None] % model.config.vocab_size, cache=cache)
    return cache.state_size().to_dict()
