"""Recall against the state that it costs: SOSM, full attention and pure Mamba-2 on probes.

All arms have as many parameters (±2 %), the same steps at most and, for a seed, the same texts in
the same order, which their data hashes prove. Every arm gets the same learning rates on seed 0 and
keeps the one of the lowest loss on texts set apart for that; then it is trained over the seeds with
that rate. A run that is done is kept, so that an interrupted experiment goes on where it was.

    python -m experiments.probes --out runs/probes                  # MQAR and induction at T = 512
    python -m experiments.probes --tasks listops senses
    python -m experiments.probes --steps 3 --seeds 1 --rates 3e-3   # does it run?
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments.harness import check_same_data, spread
from experiments.probe_picture import write_picture
from experiments.probe_runs import Run, Task
from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig, parse_overrides
from state_core.training.baselines import count_parameters, matched_baseline, widened
from state_core.training.probes import MQAR, Induction, ListOps, Senses

RATES = (3e-3, 1e-2)
ARMS = ("SOSM", "full attention", "Mamba-2", "SOSM, phase 6")
SMALL: dict[str, Any] = {
    "d_model": 64,
    "embed_rank": 64,
    "layers": ["mamba", "graph_attention"],
    "mlp_hidden": 128,
    "mamba.headdim": 32,
    "mamba.d_state": 32,
    "train.precision": "fp32",
    "train.k1_every": 0,
    "train.batch_size": 2,
    "train.seq_len": 512,
    "train.eval_batches": 64,
    "train.eval_every": 50,
    "train.warmup": 50,
}


def tasks() -> dict[str, Task]:
    """Each probe, from short texts to the ones that it is scored on."""
    recall = [MQAR(length=n, pairs=min(n // 4, 8), vocab_size=32) for n in (16, 32, 32, 128, 512)]
    induction = [
        Induction(length=n, vocab_size=64, prefixes=1, repeats=7, special=True)
        for n in (32, 64, 128, 512, 512)
    ]
    senses = [Senses(length=n, distance=n // 2) for n in (32, 64, 128, 512)]
    return {
        "mqar": Task("mqar", tuple(recall)),
        "induction": Task("induction", tuple(induction)),
        "listops": Task("listops", tuple(ListOps(length=n) for n in (16, 32, 64))),
        "senses": Task("senses", tuple(senses)),
    }


def arms(vocab_size: int, changes: dict[str, Any]) -> dict[str, SOSMConfig]:
    """SOSM as recommended and with all parts of phase 6, and its baselines, at equal parameters."""
    values = {**SMALL, "vocab_size": vocab_size, **changes}
    base = SOSMConfig.preset("default").override(values)
    full = SOSMConfig.preset("phase6").override(values)
    of_one_size = (
        base,
        matched_baseline(base, "transformer"),
        matched_baseline(base, "mamba2"),
        widened(full, count_parameters(base)),
    )
    return dict(zip(ARMS, of_one_size, strict=True))


class Experiment:
    """Runs over tasks, arms, rates and seeds, one after the other."""

    def __init__(self, out: Path, chosen: list[Task], changes: dict[str, Any]) -> None:
        self.out, self.chosen, self.changes = out, chosen, changes

    def run(
        self, chosen_arms: Sequence[str], rates: Sequence[float], seeds: int
    ) -> dict[str, list[dict[str, Any]]]:
        """`tuning`, every rate on seed 0, and `arms`, each at its own rate over the seeds."""
        arms_of = {t.name: arms(t.probe.vocab_size, self.changes) for t in self.chosen}
        pairs = [(task, arm) for arm in chosen_arms for task in self.chosen]
        columns = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns) as self.progress:
            self.total = self.progress.add_task("runs", total=len(pairs) * (len(rates) + seeds - 1))
            tuning, found = [], []
            for task, arm in pairs:
                config = arms_of[task.name][arm]
                tuned = [self._one(task, arm, config, rate, 0) for rate in rates]
                best = min(tuned, key=lambda r: r["valid_loss"])
                later = [self._one(task, arm, config, best["lr"], s) for s in range(1, seeds)]
                tuning += tuned
                found += [best, *later]
        return {"tuning": tuning, "arms": found}

    def _one(
        self, task: Task, arm: str, config: SOSMConfig, rate: float, seed: int
    ) -> dict[str, Any]:
        run = Run(task, arm, config.override({"train.lr": rate, "train.seed": seed}))
        steps = self.progress.add_task(run.name, total=config.train.steps)

        def watch(step: int, loss: float) -> None:
            self.progress.update(steps, completed=step, description=f"{run.name} loss {loss:.3f}")

        found = run.result(self.out, watch)
        self.progress.remove_task(steps)
        self.progress.advance(self.total)
        self.progress.console.print(
            f"{run.name}: accuracy {found['test']['accuracy']:.3f} after "
            f"{found['steps']} steps, {found['seconds']:.0f} s"
        )
        return found


def table(found: list[dict[str, Any]]) -> Table:
    """Mean and standard deviation of the accuracy over the seeds, and what the arm carries."""
    view = Table("task", "arm", "parameters", "lr", "state", "accuracy", "by seed", "steps")
    for task, arm in dict.fromkeys((r["task"], r["arm"]) for r in found):
        rows = [r for r in found if (r["task"], r["arm"]) == (task, arm)]
        accuracies = [r["test"]["accuracy"] for r in rows]
        view.add_row(
            task,
            arm,
            f"{rows[0]['parameters']:,}",
            f"{rows[0]['lr']:g}",
            f"{rows[0]['state']['elements']:,.0f}",
            spread(accuracies, digits=3),
            " ".join(f"{a:.3f}" for a in accuracies),
            " ".join(f"{r['steps']}" for r in rows),
        )
    return view


def main(arguments: Sequence[str] | None = None) -> None:
    import torch

    every = tasks()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/probes"))
    parser.add_argument("--tasks", nargs="+", choices=list(every), default=["mqar", "induction"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    changes = {"train.steps": options.steps, **parse_overrides(options.set)}
    experiment = Experiment(options.out, [every[name] for name in options.tasks], changes)
    found = experiment.run(options.arms, options.rates, options.seeds)
    for task in options.tasks:
        check_same_data([r for r in found["arms"] if r["task"] == task])
    atomic_write_json(options.out / "results.json", found)
    write_picture(found["arms"], options.out / "probes.html")
    Console().print(table(found["arms"]))


if __name__ == "__main__":
    main()
