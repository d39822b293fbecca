"""The command of a phase: train its arms over seeds on the same data, and tell what each is worth.

python -m experiments.phase1 --steps 150 --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.harness import Job, check_same_data, perplexities, run_all, spread
from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig, parse_overrides

PEER = "baseline"


def main(name: str, about: str, arms: Mapping[str, SOSMConfig]) -> None:
    """Train `arms`, the peer among them, write results.json below runs/`name`, print a table."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", choices=list(arms), help="beside the baseline")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    changes = {"train.steps": options.steps, **parse_overrides(options.set)}
    chosen = list(dict.fromkeys([PEER, *(options.arms or arms)]))
    jobs = [
        Job(arm, arms[arm].override({**changes, "train.seed": seed}))
        for seed in range(options.seeds)
        for arm in chosen
    ]
    found = run_all(jobs, options.out, options.jobs, options.threads)
    check_same_data(found)
    atomic_write_json(options.out / "results.json", {"arms": found})
    Console().print(table(found))


def table(found: list[dict[str, Any]]) -> Table:
    """Mean and standard deviation over the seeds; perplexity beside the peer's of the same seed."""
    view = Table("arm", "parameters", "perplexity", f"/ {PEER}", "recall tokens", "s / " + PEER)
    peers = {r["seed"]: r for r in found if r["arm"] == PEER}
    for arm in dict.fromkeys(r["arm"] for r in found):
        rows = [r for r in found if r["arm"] == arm]
        ratios = [math.exp(_loss(r) - _loss(peers[r["seed"]])) for r in rows]
        view.add_row(
            arm,
            f"{rows[0]['parameters']:,}",
            spread(perplexities(found, arm, "overall")),
            spread(ratios, digits=4),
            spread(perplexities(found, arm, "recall")),
            spread([r["seconds"] / peers[r["seed"]]["seconds"] for r in rows]),
        )
    return view


def _loss(result: dict[str, Any]) -> float:
    loss: float = result["test"]["overall"]["loss"]
    return loss
