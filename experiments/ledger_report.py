"""What became of the claims: a table, a page with every row's story, and a file of the results.

results.json holds what was measured and what the bounds made of it; the page and the README's table
are written from it and from claims.toml alone, so that they can be checked against both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.ledger import BUDGETS, Claim, Estimate, Verdict, estimates, overall
from experiments.ledger_run import FAILED, MEASURED, UNMEASURABLE, Record, path_of
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.errors import DataError, InputError

RESULTS, PAGE = "results.json", "claims.md"
SCHEMA = 1
BEGIN = "<!-- claims: written by `sosm claims report --readme` -->"
END = "<!-- claims: end -->"
COLOURS = {
    Verdict.REPRODUCED: "green",
    Verdict.PARTLY: "yellow",
    Verdict.REFUTED: "red",
    Verdict.ERROR: "bold red",
}
ORDER = (
    Verdict.REPRODUCED, Verdict.PARTLY, Verdict.REFUTED, Verdict.UNMEASURABLE, Verdict.ERROR,
    Verdict.NOT_RUN,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A claim and what was measured of it, if anything was."""

    claim: Claim
    record: Record | None = None

    @property
    def estimates(self) -> list[Estimate]:
        """Each quantity; none without measured values."""
        if self.record is None or self.record.outcome != MEASURED:
            return []
        return estimates(self.claim, self.record.values)

    @property
    def verdict(self) -> Verdict:
        if self.record is None:
            return Verdict.NOT_RUN
        if self.record.outcome == MEASURED:
            return overall(self.estimates)
        return {UNMEASURABLE: Verdict.UNMEASURABLE, FAILED: Verdict.ERROR}[self.record.outcome]

    @property
    def uncertain(self) -> bool:
        """Whether an interval reaches over a bound."""
        return any(e.straddles for e in self.estimates)

    @property
    def command(self) -> str:
        """What measures it again."""
        budget = "" if self.record is None else f" --budget {self.record.budget}"
        return f"sosm claims run {self.claim.id}{budget}"

    def to_dict(self) -> dict[str, Any]:
        """For results.json: the record, and what the bounds make of it."""
        return {
            "id": self.claim.id,
            "verdict": str(self.verdict),
            "uncertain": self.uncertain,
            "quantities": [
                {
                    "name": e.quantity.name,
                    "unit": e.quantity.unit,
                    "expected": e.quantity.expected,
                    "mean": e.mean,
                    "interval": e.interval,
                    "verdict": str(e.verdict),
                }
                for e in self.estimates
            ],
            "command": self.command,
            "record": None if self.record is None else asdict(self.record),
        }


@dataclass(frozen=True)
class Report:
    """All claims, in the ledger's order."""

    entries: list[Entry]

    @classmethod
    def gather(cls, claims: Iterable[Claim], out: Path, budget: str | None = None) -> Report:
        """What runs left in `out`: of each claim its record of `budget`, or of the largest budget.
        A record of another version of the row, whose quantities differ, counts for nothing."""
        budgets = [budget] if budget else list(BUDGETS)[::-1]
        return cls([Entry(claim, _latest(claim, out, budgets)) for claim in claims])

    @classmethod
    def load(cls, claims: Iterable[Claim], path: Path) -> Report:
        """What `save` wrote; DataError if it is no such file."""
        rows = _rows(path)
        try:
            records = {r["id"]: Record.of(r["record"]) for r in rows if r["record"] is not None}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no report on claims: {error}") from None
        return cls([Entry(c, _fitting(c, records.get(c.id))) for c in claims])

    def save(self, folder: Path) -> None:
        """Write results.json and claims.md, atomically."""
        rows = [entry.to_dict() for entry in self.entries]
        atomic_write_json(folder / RESULTS, {"schema": SCHEMA, "claims": rows})
        atomic_write_text(folder / PAGE, self.page())

    @property
    def failed(self) -> list[Entry]:
        return [e for e in self.entries if e.verdict is Verdict.ERROR]

    def counts(self, phase: int | None = None) -> dict[Verdict, int]:
        """Verdict → claims, of a phase or of all; in a fixed order, without those of none."""
        found = Counter(e.verdict for e in self.entries if phase in (None, e.claim.phase))
        return {verdict: found[verdict] for verdict in ORDER if found[verdict]}

    def table(self) -> Table:
        """For the terminal: a line for each quantity."""
        view = Table("claim", "quantity", "expected", "measured", "n", "verdict", box=None)
        for e in self.entries:
            colour = COLOURS.get(e.verdict, "dim")
            heads = [f"[bold]{e.claim.id}[/]", f"[bold]{e.claim.item}[/]", "", "", ""]
            view.add_row(*heads, f"[{colour}]{_verdict(e)}[/]")
            if e.record is not None and e.record.message:
                view.add_row("", f"[dim]{_plain(e.record.message)}[/]")
            for q in e.estimates:
                values = [q.quantity.expected, _measured(q), str(len(q.values)), str(q.verdict)]
                view.add_row("", f"{q.quantity.name}", *values)
        return view

    def page(self) -> str:
        """claims.md: a table of all, and each row's story."""
        parts = ["# The claims, measured", "", INTRODUCTION, "", *self._counts(), ""]
        parts += [*_markdown(("claim", "item", "verdict"), self._heads()), ""]
        for phase in sorted({e.claim.phase for e in self.entries}):
            parts += [f"## Phase {phase}", ""]
            for entry in self.entries:
                if entry.claim.phase == phase:
                    parts += _section(entry)
        return "\n".join([*parts, *self._circumstances()]) + "\n"

    def readme(self, page: str) -> str:
        """The README's table: verdicts by phase, and what was promised of whole phases. `page`: the
        link to claims.md."""
        phases = sorted({e.claim.phase for e in self.entries})
        seen = [v for v in ORDER if v in self.counts()]
        rows = [
            (f"{phase}", *(str(self.counts(phase).get(v, 0)) for v in seen)) for phase in phases
        ]
        rows.append(("all", *(str(self.counts()[v]) for v in seen)))
        totals = [
            row for e in self.entries if e.claim.item.endswith("total") for row in _promise(e)
        ]
        lines = [
            *_markdown(("phase", *map(str, seen)), rows),
            "",
            *_markdown(("", "promised", "quantity", "expected", "measured", "verdict"), totals),
            "",
            f"All {len(self.entries)} claims, with 95 % intervals and what lies behind each: "
            f"[{PAGE}]({page}).",
        ]
        return "\n".join(lines)

    def _counts(self) -> list[str]:
        said = ", ".join(f"{n} {verdict}" for verdict, n in self.counts().items())
        return [f"Of {len(self.entries)} claims: {said}."]

    def _heads(self) -> list[tuple[str, ...]]:
        return [
            (f"[{e.claim.id}](#{_anchor(e.claim)})", e.claim.item, _verdict(e))
            for e in self.entries
        ]

    def _circumstances(self) -> list[str]:
        """Machines, versions, commits and data, each said once."""
        records = [e.record for e in self.entries if e.record is not None]
        if not records:
            return []
        machines = {", ".join(f"{k} {v}" for k, v in _lasting(r.machine).items()) for r in records}
        versions = {", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in records}
        lines = ["## Where and with what", ""]
        for name, values in (
            ("machine", machines),
            ("versions", versions),
            ("commit", {r.commit for r in records if r.commit}),
            ("training data", {digest for r in records for digest in r.data}),
        ):
            lines += [f"- {name}: {value}" for value in sorted(values)]
        return lines


INTRODUCTION = (
    "Written by `sosm claims report` from what `sosm claims run` measured. A quantity has a value "
    "for each seed or repeat; its mean decides, and the 95 % interval is Student's t over them. A "
    "claim is *reproduced* or *refuted* if all its quantities are, and *partly* reproduced "
    "otherwise; *(uncertain)* says that an interval reaches over a bound, so that more seeds "
    "could turn the verdict."
)


def changes(old: Path, new: Report) -> Table:
    """The verdicts that differ from those of another results.json, or the means that left its
    interval."""
    before = {row["id"]: row for row in _rows(old)}
    view = Table("claim", "item", "before", "now", box=None)
    for entry in new.entries:
        row = before.get(entry.claim.id)
        was = row["verdict"] if row else str(Verdict.NOT_RUN)
        if was != str(entry.verdict):
            view.add_row(entry.claim.id, entry.claim.item, was, str(entry.verdict))
            continue
        for q, past in _moved(entry, row["quantities"] if row else []):
            view.add_row(entry.claim.id, q.quantity.name, _number(past), _number(q.mean))
    return view


def rewrite_readme(readme: Path, report: Report, page: str) -> None:
    """Put the report's table between the markers; InputError if they are not there."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InputError(f"{readme} has no place for the claims: write two lines,\n{BEGIN}\n{END}")
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    table = f"{BEGIN}\n{report.readme(page)}\n{END}"
    atomic_write_text(readme, between.sub(lambda _: table, text))


def _moved(entry: Entry, rows: list[dict[str, Any]]) -> list[tuple[Estimate, float]]:
    """Quantities whose interval and that of the same name in `rows` do not meet."""
    past = {row["name"]: row for row in rows}
    moved = []
    for q in entry.estimates:
        row = past.get(q.quantity.name)
        if row is None:
            continue
        low, high = row["interval"] or (row["mean"], row["mean"])
        ours = q.interval or (q.mean, q.mean)
        if ours[0] > high or ours[1] < low:
            moved.append((q, row["mean"]))
    return moved


def _latest(claim: Claim, out: Path, budgets: list[str]) -> Record | None:
    paths = (path_of(out, budget, claim.id) for budget in budgets)
    found = (Record.read(path) for path in paths if path.is_file())
    return next((record for record in found if _fitting(claim, record)), None)


def _fitting(claim: Claim, record: Record | None) -> Record | None:
    """The record, unless the row asks for other quantities by now."""
    if record is None or record.outcome != MEASURED:
        return record
    return record if set(record.values) == {q.name for q in claim.quantities} else None


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            raise DataError(f"{path} has schema {report['schema']}, this version reads {SCHEMA}")
        rows: list[dict[str, Any]] = report["claims"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report on claims: {error}") from None
    return rows


def _section(entry: Entry) -> list[str]:
    claim, record = entry.claim, entry.record
    lines = [f"### {claim.id}", "", f"**{claim.item}**: {claim.claim}. *{_verdict(entry)}*", ""]
    if record is not None and record.message:
        lines += [f"{record.message}", ""]
    if entry.estimates:
        rows = [(*_cells(q), str(len(q.values)), str(q.verdict)) for q in entry.estimates]
        head = ("quantity", "expected", "measured", "n", "")
        lines += [*_markdown(head, rows), ""]
    if claim.story:
        lines += [claim.story.strip(), ""]
    spent = "" if record is None else f" ({_spent(record)})"
    return [*lines, f"`{entry.command}`{spent}", ""]


def _spent(record: Record) -> str:
    kept = record.spent
    seeds = len(kept["seeds"])
    return (
        f"{seeds} seeds, {kept['steps']} steps of {kept['batch']:,} tokens where it trains, "
        f"threads {kept['threads']}; {record.seconds:.0f} s"
    )


def _lasting(machine: dict[str, Any]) -> dict[str, Any]:
    """What of a machine does not change from row to row."""
    return {k: v for k, v in machine.items() if k != "threads"}


def _cells(q: Estimate) -> tuple[str, str, str]:
    unit = f" ({q.quantity.unit})" if q.quantity.unit else ""
    return q.quantity.name + unit, q.quantity.expected, _measured(q)


def _promise(entry: Entry) -> list[tuple[str, ...]]:
    """A line for each quantity; what is said of all of them stands in the first."""
    said, nothing = (entry.claim.item, entry.claim.claim), ("", "")
    return [
        (*(nothing if n else said), *_cells(q), "" if n else _verdict(entry))
        for n, q in enumerate(entry.estimates)
    ]


def _measured(q: Estimate) -> str:
    if q.interval is None:
        return _number(q.mean)
    low, high = map(_number, q.interval)
    return f"{_number(q.mean)} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _verdict(entry: Entry) -> str:
    return f"{entry.verdict} (uncertain)" if entry.uncertain else str(entry.verdict)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _anchor(claim: Claim) -> str:
    """GitHub's name of the heading."""
    return re.sub(r"[^\w-]", "", claim.id.lower())


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines]
