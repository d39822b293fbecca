"""`sosm quickstart`: the main job, with a live table of its stages."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from state_core.cli.console import console
from state_core.cli.options import ConfigFile, Data, Overrides, Preset, Seed, Steps, build_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from state_core.analysis.report import Arm


def quickstart(
    steps: Steps = None,
    data: Data = None,
    seed: Seed = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/quickstart"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train anew even if finished runs are there.")
    ] = False,
) -> None:
    """Train a small SOSM beside a transformer, compare them, and write a report to look at.

    Takes some minutes on two cores. Run again, it reuses what is finished and goes on with what was
    interrupted; with another configuration it starts anew, and the earlier runs move to earlier-N.

    Examples:

    - sosm quickstart
    - sosm quickstart --data 'my/*.txt' --steps 300 --out runs/mine
    """
    from state_core.cli.display import StageDisplay
    from state_core.quickstart import NAMES, STAGES
    from state_core.quickstart import quickstart as run_all

    cfg = build_config(
        preset, config, set_, data__source=data, train__steps=steps, train__seed=seed
    )
    titles = {**{name: name for name in STAGES}, **NAMES}
    with StageDisplay(console, titles) as display:
        outcome = run_all(cfg, out, display, fresh=fresh, command=_command())
    if outcome.interrupted:
        console.print("Stopped; everything is saved. The same command goes on from here.")
        raise typer.Exit(130)
    console.print()
    console.print(_table(outcome.arms))
    console.print(f"\nReport: {outcome.report.resolve().as_uri()}", soft_wrap=True)


def _command() -> str:
    return shlex.join(["sosm", *sys.argv[1:]])


def _table(arms: Sequence[Arm]) -> Table:
    table = Table(title="Held-out perplexity", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("parameters", "tokens read", "tokens/s", "perplexity", "recall tokens", "others"):
        table.add_column(name, justify="right")
    for arm in arms:
        scores = (arm.perplexity(name) for name in ("overall", "recall", "other"))
        table.add_row(
            arm.name,
            f"{arm.parameters:,}",
            f"{arm.tokens:,}",
            f"{arm.tokens_per_second or 0:,.0f}",
            *("–" if score is None else f"{score:.1f}" for score in scores),
        )
    return table
