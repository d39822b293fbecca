"""`sosm bench`, `sosm kernels` and `sosm doctor`: how fast things are here, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from state_core.cli.console import console, status


def bench(
    cases: Annotated[
        list[str] | None, typer.Argument(help="Cases or groups (ops, model, all).")
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
    plot: Annotated[
        Path | None, typer.Option(help="Draw time against size, as an HTML page.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show what changed since this JSON was written.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead, show where a training step's time goes.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the cases and stop.")] = False,
) -> None:
    """Time each op and the model in turns with what you would use instead, correctness first.

    Examples:

    - sosm bench ops --quick
    - sosm bench graph_attention --out now.json --compare before.json
    - sosm bench model --profile
    """
    from state_core import bench as benchmarks

    if list_:
        table = Table("case", "group", "what", box=None, pad_edge=False)
        for case in benchmarks.select(*(cases or [])):
            table.add_row(case.name, case.group, case.about)
        console.print(table)
        return
    if profile:
        console.print(benchmarks.render_profile(benchmarks.profile_training(device, quick)))
        return
    old = benchmarks.Report.load(compare) if compare else None
    report = benchmarks.run(
        *(cases or []),
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
    if plot:
        from state_core.analysis.plot.growth import write_scaling

        write_scaling(report, plot)
        console.print(f"Drawn in {plot}", soft_wrap=True)
    if old:
        console.print(benchmarks.compare(old, report))
    if not report.passed:
        raise typer.Exit(1)


def doctor() -> None:
    """Show what is installed, what the machine offers, and which backend each op takes and why."""
    from state_core.doctor import diagnose, render

    console.print(render(diagnose()))


def kernels() -> None:
    """Compile the Triton kernels for sm_80 and sm_90, no GPU needed, and show what they take."""
    from state_core.ops.ahead_of_time import compile_all

    columns = ("kernel", "GPU", "warps", "registers", "shared", "spills", "matrix unit")
    table = Table(*columns, box=None, pad_edge=False)
    for kernel in compile_all(progress=status):
        table.add_row(
            f"{kernel.op} {kernel.kernel}",
            f"sm_{kernel.architecture}",
            str(kernel.warps),
            str(kernel.registers),
            f"{kernel.shared / 1024:.0f} KiB",
            f"{kernel.spills} B" if kernel.spills else "none",
            "yes" if kernel.matrix_unit else "",
        )
    console.print(table)
