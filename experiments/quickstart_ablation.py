"""What each part of the quickstart's SOSM is worth, beside baselines of equal size and tuning.

Every family gets the same grid of learning rates on seed 0 and keeps its best by held-out loss;
then every arm is trained over the seeds with its family's rate. All arms of a seed read the same
batches in the same order, which their data hashes prove.

    python -m experiments.quickstart_ablation --out runs/ablation --jobs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.harness import Job, best_rates, check_same_data, perplexities, run_all, spread
from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig, parse_overrides
from state_core.training.baselines import matched_baseline

RATES = (2e-3, 4e-3, 8e-3)
SEEDS = (0, 1, 2)
WITHOUT: dict[str, dict[str, Any]] = {
    "without the pointer head": {"pointer.enabled": False},
    "without semantic edges": {"graph.semantic": False},
    "without successors": {"graph.successor": False},
}


def families(base: SOSMConfig) -> dict[str, SOSMConfig]:
    """SOSM and its baselines, at equal parameters."""
    return {
        "SOSM": base,
        "transformer": matched_baseline(base, "transformer"),
        "Mamba-2": matched_baseline(base, "mamba2"),
    }


def tuning_jobs(base: SOSMConfig) -> Iterator[Job]:
    """Each family at each rate, on the first seed."""
    for family, config in families(base).items():
        for rate in RATES:
            yield Job(family, config.override({"train.lr": rate, "train.seed": SEEDS[0]}))


def arm_jobs(base: SOSMConfig, rates: dict[str, float]) -> Iterator[Job]:
    """Each family at its own rate and SOSM without each of its parts, over all seeds."""
    for seed in SEEDS:
        for family, config in families(base).items():
            yield Job(family, config.override({"train.lr": rates[family], "train.seed": seed}))
        for arm, change in WITHOUT.items():
            values = {"train.lr": rates["SOSM"], "train.seed": seed, **change}
            yield Job(arm, base.override(values))


def table(found: list[dict[str, Any]]) -> Table:
    """Mean and standard deviation of the perplexities over the seeds, and the ratio to SOSM's."""
    view = Table(
        "arm", "parameters", "lr", "perplexity", "recall tokens", "other tokens", "SOSM / arm"
    )
    ours = perplexities(found, "SOSM", "overall")
    for arm in dict.fromkeys(r["arm"] for r in found):
        rows = [r for r in found if r["arm"] == arm]
        cells = [spread(perplexities(found, arm, kind)) for kind in ("overall", "recall", "other")]
        theirs = perplexities(found, arm, "overall")
        ratio = spread([a / b for a, b in zip(ours, theirs, strict=True)], digits=3)
        view.add_row(arm, f"{rows[0]['parameters']:,}", f"{rows[0]['lr']:g}", *cells, ratio)
    return view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    # Every part that is under test is on, whether the default took it or not.
    values = {"graph.successor": True, **parse_overrides(options.set)}
    base = SOSMConfig.preset("default").override(values)
    tuned = run_all(list(tuning_jobs(base)), options.out, options.jobs, options.threads)
    rates = best_rates(tuned)
    found = run_all(list(arm_jobs(base, rates)), options.out, options.jobs, options.threads)
    check_same_data(found)
    atomic_write_json(
        options.out / "results.json", {"rates": rates, "tuning": tuned, "arms": found}
    )
    Console().print(table(found))


if __name__ == "__main__":
    main()
