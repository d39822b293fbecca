"""What each part of the layers is worth: one arm a part, beside the plain default.

All arms have the default's learning rate and, for a seed, the same batches in the same order, which
their data hashes prove. Arms with more parameters than the default say so in the table.

    python -m experiments.layer_ablation --out runs/layers --jobs 2
    python -m experiments.layer_ablation --steps 5 --seeds 1      # does it run?
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.quickstart_ablation import Job, check_same_data, run_all, table
from state_core.atomic import atomic_write_json
from state_core.config import SOSMConfig, parse_overrides

PLAIN = "SOSM"  # what the table compares with
LANDMARKS = {"graph.landmarks": 16}

ARMS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "differential attention": {"attention.differential": True},
    "no positions": {"attention.positions": "none"},
    "ALiBi": {"attention.positions": "alibi"},
    "Graph-ALiBi": {"attention.positions": "graph_alibi", **LANDMARKS},
    "Graph-RoPE": {"attention.positions": "graph_rope", **LANDMARKS},
    "multi-block heads": {"attention.multi_block": True},
    "learned mask": {"attention.learned_mask": True},
    "topological Mamba": {"mamba.topological": True},
    "topological Mamba, landmarks": {"mamba.topological": True, **LANDMARKS},
    "edges by LSH": {"graph.source": "lsh"},
    "edges by LSH, 16 tables": {"graph.source": "lsh", "graph.lsh_tables": 16},
    "rank 32": {"linear_rank": 32},
}


def arms(base: SOSMConfig) -> dict[str, dict[str, Any]]:
    """What each arm changes in `base`. Experts come twice: with as many parameters as the
    feed-forward that they replace, and with as much work per token."""
    found = dict(ARMS)
    moe, width = base.moe, base.mlp_hidden
    for routing in ("token_choice", "expert_threshold"):
        name = routing.replace("_", " ")
        same_size = {"moe.routing": routing, "moe.hidden": width // moe.n_experts}
        found[f"{name}, equal parameters"] = same_size
        found[f"{name}, equal work"] = {**same_size, "moe.hidden": width // moe.per_token}
    return found


def jobs(base: SOSMConfig, chosen: list[str], seeds: int) -> Iterator[Job]:
    """Every arm, seed by seed."""
    changes = arms(base)
    for seed in range(seeds):
        for arm in chosen:
            yield Job(arm, base.override({"train.seed": seed, **changes[arm]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/layers"))
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
