"""What `sosm claims` does: runs with progress, and the report."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.ledger import BUDGETS, Claim, Verdict, load_claims, select
from experiments.ledger_report import PAGE, Entry, Report, changes, rewrite_readme
from experiments.ledger_run import Record, Watcher, run_claims
from state_core.errors import ConfigError, nearest


def run(
    console: Console,
    errors: Console,
    ids: list[str],
    budget: str,
    jobs: int | None,
    ray: str | None,
    out: Path,
) -> bool:
    """Measure the claims named, show what became of them, and say whether none failed."""
    _known(budget)
    claims = select(load_claims(), ids)
    threads = torch.get_num_threads()  # OMP_NUM_THREADS, or a thread a core
    with _progress(errors, len(claims)) as watcher:
        records = run_claims(
            claims, budget, out, jobs=jobs or threads, threads=threads, ray=ray, watcher=watcher
        )
    report = Report([Entry(c, r) for c, r in zip(claims, records, strict=True)])
    console.print(report.table())
    console.print(", ".join(f"{n} {verdict}" for verdict, n in report.counts().items()))
    for entry, record in zip(report.entries, records, strict=True):
        if entry.verdict is Verdict.ERROR:
            beside = out / budget / f"{record.id}.traceback.txt"
            failed = f"{record.id} failed: {record.message}\nSee {beside}"
            errors.print(failed, style="red", markup=False, soft_wrap=True)
    return not report.failed


def report(
    console: Console,
    out: Path,
    budget: str | None,
    to: Path | None,
    readme: Path | None,
    compare: Path | None,
) -> bool:
    """Write the report on what was measured, and show it; say whether no claim failed."""
    if budget:
        _known(budget)
    found = Report.gather(load_claims().values(), out, budget)
    # Compared first: the old report may be the one that is written over.
    changed = changes(compare, found) if compare else None
    folder = to or out
    found.save(folder)
    console.print(found.table())
    console.print(", ".join(f"{n} {verdict}" for verdict, n in found.counts().items()))
    console.print(f"Written to {folder / PAGE}", soft_wrap=True)
    if readme:
        page = os.path.relpath(folder / PAGE, readme.parent)
        rewrite_readme(readme, found, Path(page).as_posix())
        console.print(f"and to {readme}", soft_wrap=True)
    if changed is not None:
        console.print(changed if changed.row_count else f"Nothing changed since {compare}.")
    return not found.failed


def _known(budget: str) -> None:
    if budget not in BUDGETS:
        raise ConfigError(f"unknown budget {budget!r}: {nearest(budget, BUDGETS)}")


@contextmanager
def _progress(errors: Console, total: int) -> Iterator[Watcher]:
    """A line for each row that ends, and below them what is running."""
    running: dict[str, None] = {}
    lock = threading.Lock()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=total)

        def show(left: str) -> None:
            bar.update(
                task, description=f"{left} running: {' '.join(running)}" if running else left
            )

        def begins(claim: Claim) -> None:
            with lock:
                running[claim.id] = None
                show("")

        def ends(claim: Claim, record: Record, done: int, left: float) -> None:
            with lock:
                running.pop(claim.id, None)
                entry = Entry(claim, record)
                line = f"{done}/{total} {claim.id} {entry.verdict}, {record.seconds:.0f} s"
                bar.console.print(line, style="dim", highlight=False)
                bar.update(task, completed=done)
                show(f"some {left / 60:.0f} min left,")

        yield Watcher(begins, ends)
