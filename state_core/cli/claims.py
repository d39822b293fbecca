"""`sosm claims …`: what the design promised, measured anew.

The ledger is an experiment, and experiments import the package: so the package looks for them only
when a command is run, and says so where there are none, as in an installation without a checkout.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from state_core.cli.console import console, errors
from state_core.errors import SOSMError

app = typer.Typer(
    no_args_is_help=True, help="Measure again what the design promised, and report it."
)
Out = Annotated[Path, typer.Option(help="Where records and training runs are kept.")]
RUNS = Path("runs/claims")


@app.command()
def run(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Claims; 'sosm-1*' are those of phase 1. All if none."),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="quick (minutes), standard, or full (five seeds, hours).")
    ] = "quick",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Rows at a time; by default one a thread.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Measure on a Ray cluster (auto: the running one; local: here)."
        ),
    ] = None,
    out: Out = RUNS,
) -> None:
    """Measure claims that were not measured yet; a stopped run goes on where it was.

    After a change of the model give another --out, or delete the old: what was trained is kept.

    Examples:

    - sosm claims run --budget quick
    - sosm claims run sosm-1.1m 'sosm-2*' --budget standard
    - sosm claims run --ray auto --budget full
    """
    if not _ledger().run(console, errors, ids or [], budget, jobs, ray, out):
        raise typer.Exit(1)


@app.command()
def report(
    out: Out = RUNS,
    budget: Annotated[
        str | None, typer.Option(help="Of this budget alone; else the largest measured of each.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of claims.md and results.json, if not that of runs.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="Rewrite the claims between the markers of this file.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show what changed since this results.json was written.")
    ] = None,
) -> None:
    """Write claims.md and results.json on what was measured, and show them as a table.

    Examples:

    - sosm claims report
    - sosm claims report --to docs/claims --readme README.md
    - sosm claims report --compare docs/claims/results.json
    """
    if not _ledger().report(console, out, budget, to, readme, compare):
        raise typer.Exit(1)


def _ledger() -> Any:
    """The experiments' side of these commands; they are imported or lie in the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    if importlib.util.find_spec("experiments") is None:
        raise SOSMError(
            "the claims are measured by experiments/, which are no part of the installed package: "
            "run this in a checkout of the repository"
        )
    return importlib.import_module("experiments.ledger_cli")
