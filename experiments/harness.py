"""What every ablation shares: training runs over arms and seeds, resumable, and their spread."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig


@dataclass(frozen=True)
class Job:
    """One training run: its folder is named by arm, rate and seed, so that a rerun skips it."""

    arm: str
    config: SOSMConfig

    @property
    def folder(self) -> str:
        train = self.config.train
        return f"{self.arm.replace(' ', '-')}_lr{train.lr:g}_seed{train.seed}_{train.steps}"


def run(job: Job, out: Path, threads: int, batches: int | None = None) -> dict[str, Any]:
    """Train and evaluate one job, or read what an earlier run of it found.

    batches: score so many of the test text, the first; default: all.
    """
    import torch

    from state_core.training.evaluate import evaluate
    from state_core.training.run import load_run, load_text, train

    folder = out / job.folder
    results = folder / "results.json"
    if results.is_file():
        return json.loads(results.read_text())
    torch.set_num_threads(threads)
    text = load_text(job.config)
    trained = train(job.config, folder, overwrite=True, text=text)
    if trained.interrupted:
        raise KeyboardInterrupt(f"{folder} was stopped at step {trained.steps}")
    model, _ = load_run(folder)
    # Scored on what no rate was chosen by.
    length = job.config.train.seq_len
    scores = evaluate(model, text.test, seq_len=length, max_batches=batches)
    found = {
        "arm": job.arm,
        "seed": job.config.train.seed,
        "lr": job.config.train.lr,
        "parameters": model.num_parameters(),
        "data_hash": trained.data_hash,
        "valid_loss": trained.valid.overall.loss if trained.valid else math.nan,
        "test": {
            score.name: {"loss": score.loss, "tokens": score.tokens} for score in scores.scores
        },
        "seconds": trained.seconds,
    }
    atomic_write_json(results, found)
    return found


def run_all(
    jobs: list[Job],
    out: Path,
    workers: int,
    threads: int,
    work: Callable[[Job, Path, int], dict[str, Any]] = run,
) -> list[dict[str, Any]]:
    """Do the work of jobs in parallel processes and say when each ends."""
    console, start = Console(), time.monotonic()
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [(job, pool.submit(work, job, out, threads)) for job in jobs]
        for n, (job, future) in enumerate(futures, start=1):
            result = future.result()
            found.append(result)
            loss = result["test"]["overall"]["loss"]
            left = (time.monotonic() - start) / n * (len(jobs) - n) / 60
            line = f"{n}/{len(jobs)} {job.folder}: test loss {loss:.4f}, some {left:.0f} min left"
            console.print(line, soft_wrap=True)
    return found


def best_rates(tuned: list[dict[str, Any]]) -> dict[str, float]:
    """Each arm's rate with the lowest held-out loss."""
    return {
        arm: min((r for r in tuned if r["arm"] == arm), key=lambda r: r["valid_loss"])["lr"]
        for arm in dict.fromkeys(r["arm"] for r in tuned)
    }


def check_same_data(found: list[dict[str, Any]]) -> None:
    """All arms of a seed must have read the same batches."""
    for seed in sorted({r["seed"] for r in found}):
        hashes = {r["data_hash"] for r in found if r["seed"] == seed}
        if len(hashes) > 1:
            raise SystemExit(f"arms of seed {seed} read different batches: {sorted(hashes)}")


def perplexities(found: list[dict[str, Any]], arm: str, kind: str) -> list[float]:
    """An arm's test perplexity on a kind of tokens, seed by seed."""
    rows = sorted((r for r in found if r["arm"] == arm), key=lambda r: r["seed"])
    return [math.exp(r["test"][kind]["loss"]) for r in rows]


def spread(values: list[float], digits: int = 2) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"
