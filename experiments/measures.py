"""What measurements of claims share: trained runs, times in turns, and peak memory.

    runs = trained(setting, {"baseline": baseline, "phase1": phase1})
    perplexity_ratio(runs, "phase1", "baseline")     # one value per seed

Speed is a ratio of medians within one process, peak memory that of a process of its own. The
seconds of trained runs are no measure of speed: other runs go on beside them.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.harness import Job, run
from experiments.ledger import ROOT, NotMeasurableError, Setting
from state_core.bench.cases.model import text_like_ids
from state_core.bench.memory import MemoryProbeError, high_water, reset_high_water, resident
from state_core.bench.timing import Spread, interleave, ratios
from state_core.config import SOSMConfig
from state_core.errors import TrainingError
from state_core.pipeline import SOSM
from state_core.training.baselines import count_parameters, widened
from state_core.training.malloc import keep_large_blocks
from state_core.training.optim import build_optimizer
from state_core.training.run import load_run

Thunk = Callable[[], object]
Runs = dict[str, list[dict[str, Any]]]
"""Arm → its results (`harness.run`), seed by seed; "folder" is where the run is."""
Work = Callable[[Job, Path, int], dict[str, Any]]
TRAINING_THREADS = 1  # whichever row trains a run: with another number its sums would differ
WAIT = 0.5  # seconds between looks at runs that another process trains
WARM_UP = 64  # tokens of a first call, which compiles
CPU = torch.device("cpu")


# --- trained runs ----------------------------------------------------------------------------


def of_size(config: SOSMConfig, like: SOSMConfig) -> SOSMConfig:
    """`config` with MLPs so wide that it has as many parameters as `like` (±2 %)."""
    return widened(config, count_parameters(like))


def planned(setting: Setting, config: SOSMConfig, seed: int) -> SOSMConfig:
    """An arm's configuration as a setting trains it. A short run warms up for a fifth of its steps,
    or it would never reach its rate."""
    train = config.train
    return config.override(
        {
            "train.steps": setting.steps,
            "train.warmup": min(train.warmup, max(1, setting.steps // 5)),
            "train.batch_size": max(1, setting.batch // train.seq_len),
            "train.eval_batches": 2,
            "train.seed": seed,
        }
    )


def trained(setting: Setting, arms: Mapping[str, SOSMConfig], work: Work | None = None) -> Runs:
    """Train the arms over the setting's seeds, or read what was trained before.

    work: what is done of a run, if not training and scoring on the corpus. Arms that differ in it
    need different names, and it must leave a results.json which tells the data's hash. Arms of a
    seed read the same batches, or this is a TrainingError. Several processes may ask for the same
    runs: each run is trained once, and none waits while there is another left to train.
    """
    work = work or partial(run, batches=setting.scored)
    jobs = {
        (arm, seed): _job(arm, planned(setting, config, seed))
        for seed in setting.seeds
        for arm, config in arms.items()
    }
    found: dict[tuple[str, int], dict[str, Any]] = {}
    while len(found) < len(jobs):
        before = len(found)
        for key in [key for key in jobs if key not in found]:
            with _claimed(setting.folder / jobs[key].folder) as ours:
                if ours:
                    found[key] = work(jobs[key], setting.folder, TRAINING_THREADS)
        if len(found) == before:
            time.sleep(WAIT)
    _same_data(found, setting)
    return {
        arm: [
            {**found[arm, seed], "folder": setting.folder / jobs[arm, seed].folder}
            for seed in setting.seeds
        ]
        for arm in arms
    }


def models(runs: Runs, arm: str) -> Iterator[SOSM]:
    """The trained model of each seed, ready to be read with."""
    for result in runs[arm]:
        yield load_run(result["folder"])[0].eval()


def perplexity_ratio(runs: Runs, arm: str, peer: str, kind: str = "overall") -> list[float]:
    """An arm's held-out perplexity over its peer's, seed by seed: the arms of a seed read the same
    text in the same order, so that what differs is the arm. Below 1 the arm is better."""
    pairs = zip(runs[arm], runs[peer], strict=True)
    return [math.exp(a["test"][kind]["loss"] - b["test"][kind]["loss"]) for a, b in pairs]


def _job(arm: str, config: SOSMConfig) -> Job:
    """Named by its configuration too: another arm of that name is not mistaken for it."""
    said = json.dumps(config.to_dict(), sort_keys=True)
    return Job(f"{arm} {hashlib.sha256(said.encode()).hexdigest()[:8]}", config)


def _same_data(found: Mapping[tuple[str, int], dict[str, Any]], setting: Setting) -> None:
    for seed in setting.seeds:
        hashes = {result["data_hash"] for (_, of), result in found.items() if of == seed}
        setting.data.update(hashes)
        if len(hashes) > 1:
            raise TrainingError(f"arms of seed {seed} read different batches: {sorted(hashes)}")


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no other process is at work in a folder; if so, none will be meanwhile. The system
    lets go of the lock of a process that dies."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


# --- time ------------------------------------------------------------------------------------


def speedup(setting: Setting, ours: Thunk, peer: Thunk, device: torch.device = CPU) -> list[float]:
    """How many times longer `peer` takes: a value per repeat, the median of calls in turns."""
    found = []
    for _ in setting.seeds:
        seconds = interleave({"ours": ours, "peer": peer}, device, setting.seconds)
        found.append(Spread.of(ratios(seconds["ours"], seconds["peer"])).median)
    return found


def time_ratio(
    setting: Setting, ours: Thunk, peer: Thunk, device: torch.device = CPU
) -> list[float]:
    """Our time over the peer's, a value per repeat: the other way round than `speedup`."""
    return [1 / ratio for ratio in speedup(setting, ours, peer, device)]


def texts(config: SOSMConfig, tokens: int, length: int | None = None) -> Tensor:
    """Ids [B,T] of about `tokens` tokens in texts of `length` (that of training), as frequent as
    words are."""
    length = min(length or config.train.seq_len, tokens)
    return text_like_ids(max(1, tokens // length), length, config.vocab_size, CPU)


class Step:
    """A step of training per call, as the loop takes it, in the configuration's precision."""

    def __init__(
        self,
        config: SOSMConfig,
        ids: Tensor,
        before_update: Callable[[nn.Module], object] = lambda model: None,
    ) -> None:
        """before_update: what is done with the gradients of each step."""
        torch.manual_seed(0)
        torch.set_float32_matmul_precision(config.train.matmul)
        self.model, self.ids, self.before_update = SOSM(config).train(), ids, before_update
        self.memory = self.model.new_memory(len(ids)) if config.memory.enabled else None
        self.optimizer = build_optimizer(self.model, config.train)

    def __call__(self) -> float:
        train = self.model.config.train
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            out = self.model(self.ids, labels=self.ids, memory=self.memory)
        loss = out.loss if out.aux_loss is None else out.loss + out.aux_loss
        loss.backward()
        if self.memory is not None:
            self.memory.append(self.ids, out.keepsake)
        self.before_update(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def training_step(config: dict[str, Any], batch: int, length: int) -> Step:
    """A `Step` on text-like ids [B,T], of a configuration given as a dictionary; for
    `peak_bytes`."""
    tree = SOSMConfig.from_dict(config)
    return Step(tree, text_like_ids(batch, length, tree.vocab_size, CPU))


# --- memory ----------------------------------------------------------------------------------


def peak_bytes(setting: Setting, prepare: Callable[..., Thunk], *args: Any, warm: list[Any]) -> int:
    """Bytes that a process holds at most while it calls what `prepare(*args)` gives, beyond what it
    held before: what is prepared (a model, its inputs) counts.

    prepare: a function at the top of a module; args and `warm`, the smaller arguments of a first
    call which compiles, go through JSON. MemoryProbeError with the last words of what fails.
    """
    if not Path("/proc/self/status").exists():
        raise NotMeasurableError("peak memory is read from /proc, which is Linux's")
    name = f"{prepare.__module__}:{prepare.__qualname__}"
    asked = json.dumps([name, args, warm, setting.threads])
    command = [sys.executable, "-m", "experiments.measures", asked]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MemoryProbeError(f"cannot measure the memory of {name}: {last}")
    return int(done.stdout.split()[-1])


def training_bytes(setting: Setting, config: SOSMConfig, length: int | None = None) -> int:
    """Peak of a step of training: weights, optimiser and activations."""
    ids = texts(config, setting.tokens, length)
    tree = config.to_dict()
    return peak_bytes(setting, training_step, tree, *ids.shape, warm=[tree, 1, WARM_UP])


def memory_ratio(
    setting: Setting, ours: SOSMConfig, peer: SOSMConfig, length: int | None = None
) -> list[float]:
    """Peak memory of a step of training over that of a peer's, a value per repeat."""
    return [
        training_bytes(setting, ours, length) / training_bytes(setting, peer, length)
        for _ in setting.seeds
    ]


def _probe(name: str, args: list[Any], warm: list[Any], threads: int) -> int:
    """What `peak_bytes` asks for, in a process of its own."""
    torch.set_num_threads(threads)
    keep_large_blocks()
    module, function = name.split(":")
    prepare = getattr(importlib.import_module(module), function)
    prepare(*warm)()
    gc.collect()
    reset_high_water()
    before = resident()
    thunk = prepare(*args)
    thunk()
    thunk()  # the second step of an optimiser holds its moments as well
    return high_water() - before


if __name__ == "__main__":
    print(_probe(*json.loads(sys.argv[1])))
