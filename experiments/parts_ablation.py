"""What each optional part of the model is worth: one arm a part, against the plain default.

All arms have the default's learning rate and, for a seed, the same batches in the same order, which
their data hashes prove. What is reported of an arm is the difference to the default of the same
seed, so that the spread is that of the difference. Arms with more parameters say so in the table.

    python -m experiments.parts_ablation --out runs/parts --jobs 2
    python -m experiments.parts_ablation --steps 5 --seeds 1      # does it run?
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.harness import Job, check_same_data, run_all, spread
from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig, parse_overrides

PLAIN = "default"
LANDMARKS = {"graph.landmarks": 16}
GATE = {"graph.temporal_gate": True}
# One threshold at a time, around what the gate starts from.
TAUS = (
    ("tau_mu", (0.0, 0.5)),
    ("tau_temp", (0.1, 0.5, 0.7)),
    ("tau_high", (0.6, 0.8, 2.0)),
)
PARTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "temporal gate": GATE,
    "betweenness shortcuts": {"graph.shortcuts": "betweenness"},
    "random shortcuts": {"graph.shortcuts": "random"},
    "fibonacci shortcuts": {"graph.shortcuts": "fibonacci"},
    "degree encoding": {"graph.encoding": "degree"},
    "random walk encoding": {"graph.encoding": "random_walk"},
    "edges by LSH": {"graph.source": "lsh"},
    "edges by LSH, 16 tables": {"graph.source": "lsh", "graph.lsh_tables": 16},
    "no positions": {"attention.positions": "none"},
    "ALiBi": {"attention.positions": "alibi"},
    "Graph-ALiBi": {"attention.positions": "graph_alibi", **LANDMARKS},
    "Graph-RoPE": {"attention.positions": "graph_rope", **LANDMARKS},
    "differential attention": {"attention.differential": True},
    "multi-block heads": {"attention.multi_block": True},
    "learned mask": {"attention.learned_mask": True},
    "topological Mamba": {"mamba.topological": True},
    "topological Mamba, landmarks": {"mamba.topological": True, **LANDMARKS},
    "rank 32": {"linear_rank": 32},
}


def arms(base: SOSMConfig) -> dict[str, dict[str, Any]]:
    """What each arm changes in `base`. Experts come twice: with as many parameters as the
    feed-forward that they replace, and with as much work per token."""
    found = dict(PARTS)
    moe, width = base.moe, base.mlp_hidden
    for routing in ("token_choice", "expert_threshold"):
        name = routing.replace("_", " ")
        same_size = {"moe.routing": routing, "moe.hidden": width // moe.n_experts}
        found[f"{name}, equal parameters"] = same_size
        found[f"{name}, equal work"] = {**same_size, "moe.hidden": width // moe.per_token}
    for tau, values in TAUS:
        for value in values:
            found[f"temporal gate, {tau} {value:g}"] = {**GATE, f"graph.{tau}": value}
    return found


def jobs(base: SOSMConfig, chosen: list[str], seeds: int) -> Iterator[Job]:
    """Every arm, seed by seed."""
    changes = arms(base)
    for seed in range(seeds):
        for arm in chosen:
            yield Job(arm, base.override({"train.seed": seed, **changes[arm]}))


def table(found: list[dict[str, Any]]) -> Table:
    """Mean and standard deviation over the seeds; losses as differences to the default's."""
    view = Table(
        "arm", "parameters", "perplexity", "loss - default", "recall tokens", "s / default"
    )
    for arm in dict.fromkeys(r["arm"] for r in found):
        rows = [r for r in found if r["arm"] == arm]
        plain = [_plain(found, r["seed"]) for r in rows]
        pairs = list(zip(rows, plain, strict=True))
        gains = [[_loss(r, k) - _loss(p, k) for r, p in pairs] for k in ("overall", "recall")]
        view.add_row(
            arm,
            f"{rows[0]['parameters']:,}",
            spread([math.exp(_loss(r, "overall")) for r in rows]),
            *(spread(gain, digits=4) for gain in gains),
            f"{statistics.mean(r['seconds'] / p['seconds'] for r, p in pairs):.2f}",
        )
    return view


def _plain(found: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    return next(r for r in found if r["arm"] == PLAIN and r["seed"] == seed)


def _loss(result: dict[str, Any], kind: str) -> float:
    loss: float = result["test"][kind]["loss"]
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/parts"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", choices=list(arms(SOSMConfig.preset("default"))))
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    base = SOSMConfig.preset("default").override(
        {"train.steps": options.steps, **parse_overrides(options.set)}
    )
    chosen = list(dict.fromkeys([PLAIN, *(options.arms or arms(base))]))
    planned = list(jobs(base, chosen, options.seeds))
    found = run_all(planned, options.out, options.jobs, options.threads)
    check_same_data(found)
    atomic_write_json(options.out / "results.json", {"arms": found})
    Console().print(table(found))


if __name__ == "__main__":
    main()
