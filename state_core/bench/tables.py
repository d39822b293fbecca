"""Tables of a benchmark report for the terminal, and of what changed between two reports."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from state_core.bench.case import CASES, OURS, Goal
from state_core.bench.report import Report, Result
from state_core.bench.timing import Spread


def render(report: Report) -> RenderableType:
    """The tables of a report, for a rich console."""
    parts: list[RenderableType] = [_head(report), _ratio_table(report.results)]
    growth = report.growth()
    if growth:
        parts.append(_growth_table(growth))
    return Group(*parts)


def compare(old: Report, new: Report) -> RenderableType:
    """A table of what changed between two reports, by the ratios to the peers.

    Seconds are shown as well; between different machines only the ratios speak.
    """
    table = Table(title="What changed", title_justify="left")
    for column in ("case", "size", "peer", "ratio before", "now", "", "ours before", "now"):
        table.add_column(column)
    before = {(r.case, tuple(r.shape.items())): r for r in old.results}
    for result in new.results:
        earlier = before.get((result.case, tuple(result.shape.items())))
        if earlier is None or not (earlier.seconds and result.seconds):
            continue
        ours = (_seconds(earlier.seconds[OURS].median), _seconds(result.seconds[OURS].median))
        for peer in result.ratio.keys() & earlier.ratio.keys():
            a, b = earlier.ratio[peer], result.ratio[peer]
            verdict = _verdict(a, b)
            table.add_row(result.case, _size(result), peer, _ratio(a), _ratio(b), verdict, *ours)
    if not table.row_count:
        return "No case at the same size in both reports."
    if old.machine != new.machine or old.versions != new.versions:
        table.caption = "The machine or the versions differ: only the ratios can be compared."
    return table


def _verdict(old: Spread, new: Spread) -> str:
    if new.low > old.high:
        return "[green]faster[/]"
    if new.high < old.low:
        return "[red]slower[/]"
    return "same"


def _head(report: Report) -> str:
    machine = ", ".join(f"{k} {v}" for k, v in report.machine.items())
    packages = ", ".join(f"{k} {v}" for k, v in report.versions.items())
    sizes = "\n[yellow]Quick sizes: they test the benchmark, not the kernels.[/]"
    return f"{machine}\n{packages}{sizes if report.quick else ''}"


def _ratio_table(results: list[Result]) -> Table:
    table = Table(
        title="Ours against the peers: median of interleaved runs, quartiles in brackets",
        title_justify="left",
        caption="ratio: how many times longer, or more memory, the peer takes",
    )
    for column in ("case", "size", "check", "ours", "peer", "ratio", "goal", "memory"):
        table.add_column(column)
    for result in results:
        for row in _rows(result):
            table.add_row(*row)
        table.add_section()
    return table


def _rows(result: Result) -> list[tuple[str, ...]]:
    if not result.passed:
        failed = next(check for check in result.checks if not check.passed)
        why = f"[red]✗ {failed.against}: error {failed.error:.1e} > {failed.tolerance:.0e}[/]"
        return [(result.case, _size(result), why, "not timed", "", "", "", "")]
    lead = (
        result.case,
        _size(result),
        f"[green]✓[/] {max((c.error for c in result.checks), default=0):.0e}",
        _seconds(result.seconds[OURS].median),
    )
    rows = [
        (
            *lead,
            peer,
            _ratio(spread),
            _goal(result, peer, spread.median),
            _memory(result, peer),
        )
        for peer, spread in result.ratio.items()
    ]
    rows += [(*lead, peer, escape(why), "", "") for peer, why in result.missing.items()]
    rows += [
        (*lead, name, f"{value:.3g}", _goal(result, name, value), "")
        for name, value in result.figures.items()
    ]
    rows = rows or [(*lead, "", "", "", _memory(result, OURS))]
    blank = ("",) * len(lead)
    return [rows[0], *((*blank, *row[len(lead) :]) for row in rows[1:])]


def _growth_table(growth: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Growth: p of the best fit size^p (1 linear, 2 quadratic)", title_justify="left"
    )
    for column in ("case", "over", "with", "", "time", "memory", "goal"):
        table.add_column(column)
    for row in growth:
        case = CASES[row["case"]]
        goals = [case.goal(f"{what} growth", None) for what in ("time", "memory")]
        shown = [
            f"{what} {_mark(goal, row[what])}"
            for what, goal in zip(("time", "memory"), goals)
            if goal and what in row and row["contender"] == OURS
        ]
        exponents = (f"{row[what]:.2f}" if what in row else "" for what in ("time", "memory"))
        table.add_row(
            row["case"], case.axis, row["fixed"], row["contender"], *exponents, ", ".join(shown)
        )
    return table


def _goal(result: Result, figure: str, value: float) -> str:
    goal = CASES[result.case].goal(figure, result.size)
    return _mark(goal, value) if goal else ""


def _mark(goal: Goal, value: float) -> str:
    return f"[green]✓ {goal}[/]" if goal.reached(value) else f"[red]✗ {goal}[/]"


def _size(result: Result) -> str:
    return " ".join(f"{k}{v}" for k, v in result.shape.items())


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f}× [{spread.low:.2f}, {spread.high:.2f}]"


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _memory(result: Result, peer: str) -> str:
    ours, theirs = result.memory.get(OURS), result.memory.get(peer)
    if ours is None or theirs is None:
        return ""
    if peer == OURS:
        return f"{ours / 2**20:.0f} MiB"
    return f"{ours / 2**20:.0f} / {theirs / 2**20:.0f} MiB"
