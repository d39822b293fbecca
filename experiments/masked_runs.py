"""One run of an encoder: masked words, the batches and the optimiser of every other run."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.harness import Job
from state_core.atomic import atomic_write_json
from state_core.encoder import SOSMEncoder, mask_tokens
from state_core.errors import TrainingError
from state_core.training.batches import windows
from state_core.training.optim import build_optimizer, set_learning_rate
from state_core.training.run import Text, load_text
from state_core.training.schedule import learning_rate

HELD_OUT = 10**6  # seeds of masks in held-out text, apart from those of training


def run_encoder(job: Job, out: Path, threads: int) -> dict[str, Any]:
    """Train and evaluate one job, or read what an earlier run of it found."""
    folder = out / job.folder
    results = folder / "results.json"
    if results.is_file():
        return json.loads(results.read_text())
    torch.set_num_threads(threads)
    began, text = time.perf_counter(), load_text(job.config)
    model = train_encoder(job, text)
    model.save_pretrained(folder / "model")
    text.tokenizer.save(folder / "model" / "tokenizer.json")
    found = {
        "arm": job.arm,
        "seed": job.config.train.seed,
        "lr": job.config.train.lr,
        "parameters": model.num_parameters(),
        "data_hash": text.batches(job.config.train).data_hash(),
        "test": {"overall": {"loss": masked_loss(model, text)}},
        "seconds": time.perf_counter() - began,
    }
    atomic_write_json(results, found)
    return found


def train_encoder(job: Job, text: Text) -> SOSMEncoder:
    """An encoder trained on masked words. TrainingError if it diverges."""
    settings = job.config.train
    torch.manual_seed(settings.seed)
    model = SOSMEncoder(job.config).train()
    optimizer, batches = build_optimizer(model, settings), text.batches(settings)
    for step in range(settings.steps):
        masked, labels = mask_tokens(batches.next(), model.mask_id, seed=step)
        loss = model(masked, labels=labels).loss
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(f"{job.folder}: the loss of step {step + 1} is not finite")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        set_learning_rate(optimizer, learning_rate(step, settings))
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def masked_loss(model: SOSMEncoder, text: Text) -> float:
    """Mean loss of masked words of the first test batches."""
    settings = model.config.train
    losses = []
    for n, ids in enumerate(windows(text.test, settings.seq_len, settings.batch_size)):
        if n == settings.eval_batches:
            break
        masked, labels = mask_tokens(ids, model.mask_id, seed=HELD_OUT + n)
        losses.append(float(model(masked, labels=labels).loss))
    return math.fsum(losses) / len(losses)
