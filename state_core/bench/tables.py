"""Tables of a benchmark report for the terminal, and of what changed between two reports.

They fit 80 columns: a line for the case, one for a size with our time, one for each peer.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from state_core.bench.case import CASES, OURS, Case, Goal
from state_core.bench.report import Report, Result
from state_core.bench.timing import Spread

RATIOS = (
    "\n[italic]Our time and memory, and how many times longer the peers take: median and "
    "quartiles of interleaved runs[/]"
)
GROWTH = "\n[italic]Growth: p of the best fit sizeᵖ (1 linear, 2 quadratic)[/]"
OTHER_MACHINE = "The machine or the versions differ: only the ratios can be compared."


def render(report: Report) -> RenderableType:
    """The tables of a report, for a rich console."""
    parts: list[RenderableType] = [_head(report), RATIOS, _ratio_table(report.results)]
    if report.growth():
        parts += [GROWTH, _growth_table(report)]
    return Group(*parts)


def compare(old: Report, new: Report) -> RenderableType:
    """A table of what changed between two reports, by the ratios to the peers.

    Our own times are shown as well; between different machines only the ratios speak.
    """
    table = _table("", "before", "now", "")
    before = {(r.case, tuple(r.shape.items())): r for r in old.results}
    for result in new.results:
        earlier = before.get((result.case, tuple(result.shape.items())))
        if earlier is None or not (earlier.seconds and result.seconds):
            continue
        ours = (_seconds(r.seconds[OURS].median) for r in (earlier, result))
        table.add_row(f"[bold]{result.case}[/] {_size(result)}", *ours)
        for peer in (name for name in result.ratio if name in earlier.ratio):
            a, b = earlier.ratio[peer], result.ratio[peer]
            table.add_row(f"    {peer}", f"{a.median:.2f}×", f"{b.median:.2f}×", _verdict(a, b))
    if not table.row_count:
        return "No case at the same size in both reports."
    alike = old.machine == new.machine and old.versions == new.versions
    return table if alike else Group(table, OTHER_MACHINE)


def _verdict(old: Spread, new: Spread) -> str:
    if new.low > old.high:
        return "[green]faster[/]"
    if new.high < old.low:
        return "[red]slower[/]"
    return "same"


def _head(report: Report) -> str:
    machine = ", ".join(f"{k} {v}" for k, v in report.machine.items())
    packages = ", ".join(f"{k} {v}" for k, v in report.versions.items())
    quick = "\n[yellow]Quick sizes: they test the benchmark, not the kernels.[/]"
    return f"{machine}\n{packages}{quick if report.quick else ''}"


def _ratio_table(results: list[Result]) -> Table:
    table = _table("", "time, ratio", "goal", "memory")
    for i, result in enumerate(results):
        if i == 0 or results[i - 1].case != result.case:
            table.add_row(f"[bold]{result.case}[/]", _checked(result))
        if result.passed:
            _add_size(table, result)
    return table


def _checked(result: Result) -> str:
    failed = [check for check in result.checks if not check.passed]
    if failed:
        error = f"error {failed[0].error:.1e} > {failed[0].tolerance:.0e}"
        return f"[red]✗ {failed[0].against}: {error}; not timed[/]"
    worst = max((check.error for check in result.checks), default=0.0)
    return f"[green]✓[/] error {worst:.0e}"


def _add_size(table: Table, result: Result) -> None:
    ours = _seconds(result.seconds[OURS].median)
    table.add_row(f"  {_size(result)}", ours, "", _memory(result, OURS))
    for peer, spread in result.ratio.items():
        shown = f"{spread.median:.2f}× [{spread.low:.2f}, {spread.high:.2f}]"
        goal = _goal(result, peer, spread.median)
        table.add_row(f"    {peer}", shown, goal, _memory(result, peer))
    for peer, why in result.missing.items():
        table.add_row(f"    {peer}", escape(why))
    for name, value in result.figures.items():
        table.add_row(f"    {name}", f"{value:.3g}", _goal(result, name, value))


def _growth_table(report: Report) -> Table:
    table = _table("", "time", "memory", "goal")
    previous = None
    for row in report.growth():
        case, series = CASES[row["case"]], (row["case"], row["fixed"])
        if series != previous:
            table.add_row(f"[bold]{case.name}[/] over {case.axis} ({row['fixed']})")
        previous = series
        exponents = (f"{row[what]:.2f}" if what in row else "" for what in ("time", "memory"))
        judged = _growth_goals(case, row) if row["contender"] == OURS else ""
        table.add_row(f"    {row['contender']}", *exponents, judged)
    return table


def _growth_goals(case: Case, row: dict[str, Any]) -> str:
    goals = {what: case.goal(f"{what} growth", None) for what in ("time", "memory")}
    return ", ".join(f"{w} {_mark(g, row[w])}" for w, g in goals.items() if g and w in row)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _goal(result: Result, figure: str, value: float) -> str:
    goal = CASES[result.case].goal(figure, result.size)
    return _mark(goal, value) if goal else ""


def _mark(goal: Goal, value: float) -> str:
    return f"[green]✓ {goal}[/]" if goal.reached(value) else f"[red]✗ {goal}[/]"


def _size(result: Result) -> str:
    return " ".join(f"{k}{v}" for k, v in result.shape.items())


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _memory(result: Result, contender: str) -> str:
    held = result.memory.get(contender)
    return "" if held is None else f"{held / 2**20:.0f} MiB"
