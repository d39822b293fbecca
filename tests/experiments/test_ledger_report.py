"""The report: what it says, that it can be read again, and that the README is in step with it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.ledger import Claim, Verdict, load_claims
from experiments.ledger_report import (
    BEGIN,
    END,
    PAGE,
    RESULTS,
    Report,
    changes,
    rewrite_readme,
)
from experiments.ledger_run import FAILED, MEASURED, UNMEASURABLE, Record
from state_core.errors import DataError, InputError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "claims"
SPENT = {"seeds": [0, 1, 2], "steps": 30, "batch": 2048, "threads": 1}


def claim(name: str, phase: int = 1, item: str = "An item") -> Claim:
    speed = {"name": "speed", "unit": "×", "expected": "≥ 2", "reproduced": {"min": 2}}
    return Claim.model_validate(
        {
            "id": name,
            "phase": phase,
            "item": item,
            "claim": "twice as fast",
            "metric": "ratio",
            "measure": "somewhere:something",
            "quantity": [speed, {"name": "beside", "expected": "–"}],
            "story": f"The story of {name}.",
        }
    )


def record(name: str, speed: list[float], **changes: object) -> Record:
    values = {"speed": speed, "beside": [7.0]}
    machine = {"cpu": "a CPU", "threads": 1}
    base = Record(name, "quick", "0", MEASURED, values, spent=SPENT, machine=machine, commit="c0")
    return replace(base, **changes)


CLAIMS = [claim("t-1", item="Phase 1 total"), claim("t-1.1"), claim("t-2", 2), claim("t-2.1", 2)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Runs that came out in every way but one claim, which was not measured."""
    for found in (
        record("t-1", [2.4, 2.5, 2.6]),
        record("t-1.1", [1.0, 2.0, 2.4], budget="standard"),
        record("t-1.1", [9.0, 9.1]),
        record("t-2", [], outcome=UNMEASURABLE, values={}, message="needs a CUDA device"),
    ):
        found.save(tmp_path)
    return tmp_path


def test_verdicts_follow_the_largest_budget(out: Path):
    report = Report.gather(CLAIMS, out)
    assert [e.verdict for e in report.entries] == [
        Verdict.REPRODUCED,
        Verdict.REFUTED,
        Verdict.UNMEASURABLE,
        Verdict.NOT_RUN,
    ]
    assert [e.uncertain for e in report.entries] == [False, True, False, False]
    quick = Report.gather(CLAIMS, out, "quick")
    assert quick.entries[1].verdict is Verdict.REPRODUCED
    assert quick.counts() == {
        Verdict.REPRODUCED: 2,
        Verdict.UNMEASURABLE: 1,
        Verdict.NOT_RUN: 1,
    }


def test_the_page_tells_every_row(out: Path):
    page = Report.gather(CLAIMS, out).page()
    assert "Of 4 claims: 1 reproduced, 1 refuted, 1 not measurable here, 1 not run." in page
    assert "| speed (×) | ≥ 2 | 2.5 (2.252 to 2.748) | 3 | reproduced |" in page
    assert "| beside | – | 7 | 1 | reported |" in page
    assert "**An item**: twice as fast. *refuted (uncertain)*" in page
    assert "needs a CUDA device" in page
    assert "`sosm claims run t-1.1 --budget standard` (3 seeds, 30 steps of 2,048 tokens" in page
    assert all(f"The story of {c.id}." in page for c in CLAIMS)
    assert "- machine: cpu a CPU\n" in page
    assert "- commit: c0\n" in page


def test_the_table_shows_what_was_measured(out: Path):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(Report.gather(CLAIMS, out).table())
    shown = console.export_text()
    assert "2.5 (2.252 to 2.748)" in shown
    assert "refuted (uncertain)" in shown
    assert "needs a CUDA device" in shown


def test_a_saved_report_is_read_again(out: Path, tmp_path: Path):
    report = Report.gather(CLAIMS, out)
    report.save(tmp_path)
    assert Report.load(CLAIMS, tmp_path / RESULTS).page() == report.page()
    assert (tmp_path / PAGE).read_text() == report.page()
    (tmp_path / RESULTS).write_text('{"schema": 0}')
    with pytest.raises(DataError, match="schema 0"):
        Report.load(CLAIMS, tmp_path / RESULTS)
    with pytest.raises(DataError, match="no report"):
        Report.load(CLAIMS, tmp_path / "nothing.json")


def test_a_record_of_other_quantities_counts_for_nothing(out: Path):
    record("t-2.1", [2.0]).save(out)
    fewer = CLAIMS[3].model_copy(update={"quantities": CLAIMS[3].quantities[:1]})
    assert Report.gather([fewer], out).entries[0].verdict is Verdict.NOT_RUN


def test_changed_verdicts_and_means_are_shown(out: Path, tmp_path: Path):
    before = Report.gather(CLAIMS, out)
    before.save(tmp_path)
    assert changes(tmp_path / RESULTS, before).row_count == 0
    record("t-1", [3.4, 3.5, 3.6]).save(out)
    record("t-2.1", [], outcome=FAILED, values={}, message="no").save(out)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(changes(tmp_path / RESULTS, Report.gather(CLAIMS, out)))
    rows = [line.split() for line in console.export_text().splitlines()[1:]]
    assert rows == [["t-1", "speed", "2.5", "3.5"], ["t-2.1", "An", "item", "not", "run", "error"]]


def test_the_readme_gets_its_table(out: Path, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("# A title\n")
    report = Report.gather(CLAIMS, out)
    with pytest.raises(InputError, match="no place for the claims"):
        rewrite_readme(readme, report, "docs/claims.md")
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):  # writing it again changes nothing
        rewrite_readme(readme, report, "docs/claims.md")
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{report.readme('docs/claims.md')}\n{END}\nafter\n"
    assert "| 1 | 1 | 1 | 0 | 0 |" in text
    assert "| all | 1 | 1 | 1 | 1 |" in text
    assert (
        "| Phase 1 total | twice as fast | speed (×) | ≥ 2 | 2.5 (2.252 to 2.748) | reproduced |"
    ) in text


def test_the_recorded_report_is_in_step():
    report = Report.load(load_claims().values(), DOCS / RESULTS)
    assert (DOCS / PAGE).read_text(encoding="utf-8") == report.page()
    assert {row["id"] for row in json.loads((DOCS / RESULTS).read_text())["claims"]} == set(
        load_claims()
    )
    assert report.readme("docs/claims/claims.md") in (ROOT / "README.md").read_text("utf-8")
