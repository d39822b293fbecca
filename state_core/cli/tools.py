"""`sosm bench` and `sosm doctor`: how fast things are here, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from state_core.cli.console import console, status


def bench(
    cases: Annotated[
        list[str] | None, typer.Argument(help="Cases, or a group: ops, model or all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: to test the benchmark itself.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[bool, typer.Option(help="Also measure peak memory.")] = True,
    budget: Annotated[
        float, typer.Option(min=0.0, help="Seconds of timing per case and size.")
    ] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show what changed since this JSON was written.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the cases and stop.")] = False,
) -> None:
    """Time each op and the model in turns with what you would use instead, correctness first.

    Examples:

    - sosm bench ops --quick
    - sosm bench graph_attention --out now.json --compare before.json
    """
    from state_core import bench as benchmarks

    group, names = _choice(cases or [])
    if list_:
        table = Table("case", "group", "what", box=None, pad_edge=False)
        for case in benchmarks.select(group, names):
            table.add_row(case.name, case.group, case.about)
        console.print(table)
        return
    old = benchmarks.Report.load(compare) if compare else None
    report = benchmarks.run(
        group,
        names=names,
        device=device,
        quick=quick,
        memory=memory,
        budget=budget,
        progress=status,
    )
    console.print(benchmarks.render(report))
    if out:
        report.save(out)
        console.print(f"Written to {out}", soft_wrap=True)
    if old:
        console.print(benchmarks.compare(old, report))
    if not report.passed:
        raise typer.Exit(1)


def doctor() -> None:
    """Show what is installed, what the machine offers, and which backend each op takes and why."""
    from state_core.doctor import diagnose, render

    console.print(render(diagnose()))


def _choice(words: list[str]) -> tuple[str, list[str]]:
    """A group, or else names of cases out of all groups."""
    from state_core.bench.runner import GROUPS

    if len(words) == 1 and words[0] in ("all", *GROUPS):
        return words[0], []
    return "all", words
