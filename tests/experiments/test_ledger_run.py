"""Running claims: in processes of their own, resumable, and none takes another with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from experiments import ledger_cli, ledger_run
from experiments.ledger import Claim, Setting, Verdict, load_claims
from experiments.ledger_report import Entry
from experiments.ledger_run import Record, Watcher, path_of, run_claims
from state_core.cli import app
from state_core.errors import DataError


def claim(name: str, measure: str = "counts", **changes: Any) -> Claim:
    quantity = {"name": "q", "expected": "≥ 1", "reproduced": {"min": 1.0}}
    return Claim.model_validate(
        {
            "id": name,
            "phase": 1,
            "item": "An item",
            "claim": "as promised",
            "metric": "ratio",
            "measure": f"tests.experiments.measurements:{measure}",
            "quantity": [quantity],
            **changes,
        }
    )


def counted(out: Path) -> list[int]:
    """The threads of each time that `counts` was run."""
    path = out / "trained" / "quick" / "counted"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def test_rows_are_measured_once(tmp_path: Path):
    claims = [claim("a"), claim("b", alone=True)]
    told: list[tuple[str, int]] = []
    watcher = Watcher(ends=lambda c, record, done, left: told.append((c.id, done)))
    first = run_claims(claims, "quick", tmp_path, jobs=2, threads=2, watcher=watcher)
    assert told == [("a", 1), ("b", 2)]
    assert sorted(counted(tmp_path)) == [1, 2], "one thread beside another row, all when alone"
    assert first[0].values == {"q": [1.0, 2.0, 3.0]}
    assert first[0].data == ["a hash"]
    assert first[0].versions["torch"] == torch.__version__
    assert run_claims(claims, "quick", tmp_path, jobs=2, threads=2) == first
    assert len(counted(tmp_path)) == 2

    other = claim("a", quantity=[{"name": "p", "expected": "", "reproduced": {"min": 1}}])
    (again,) = run_claims([other], "quick", tmp_path, jobs=1, threads=1)
    assert again.outcome == ledger_run.FAILED, "another row is measured anew"


@pytest.mark.parametrize(
    ("measure", "said", "trace"),
    [
        ("fails", "ZeroDivisionError: one cannot", "in fails"),
        ("dies", "ended with status -9", ""),
        ("rambles", "must measure ['q'], but gave ['something else']", "SOSMError"),
        ("nothing", "has no function nothing", "ConfigError"),
    ],
)
def test_a_row_that_fails_is_recorded(measure: str, said: str, trace: str, tmp_path: Path):
    claims = [claim("bad", measure), claim("good")]
    bad, good = run_claims(claims, "quick", tmp_path, jobs=1, threads=1)
    assert good.outcome == ledger_run.MEASURED
    assert bad.outcome == ledger_run.FAILED
    assert said in bad.message
    kept = Record.read(path_of(tmp_path, "quick", "bad"))
    assert Entry(claims[0], kept).verdict is Verdict.ERROR
    if trace:
        assert trace in (tmp_path / "quick" / kept.traceback).read_text()
    mended = run_claims([claim("bad")], "quick", tmp_path, jobs=1, threads=1)
    assert mended[0].outcome == ledger_run.MEASURED, "what failed is measured again"
    assert not list(tmp_path.rglob("*.traceback.txt"))


def test_what_cannot_be_measured_here_says_what_it_needs(tmp_path: Path):
    rare = claim("rare", "lacks")
    (record,) = run_claims([rare], "quick", tmp_path, jobs=1, threads=1)
    assert Entry(rare, record).verdict is Verdict.UNMEASURABLE
    assert record.message == "needs something rare"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_row_for_a_gpu_says_so(tmp_path: Path):
    record = ledger_run.measure(claim("gpu", needs="gpu"), Setting.of("quick", tmp_path, 1))
    assert record.outcome == ledger_run.UNMEASURABLE
    assert record.message == "needs a CUDA device"
    assert not counted(tmp_path)


def test_a_damaged_record_is_an_error(tmp_path: Path):
    run_claims([claim("a")], "quick", tmp_path, jobs=1, threads=1)
    path = path_of(tmp_path, "quick", "a")
    text = path.read_text()
    for damaged in (text[:40], "{}", text.replace('"schema": 1', '"schema": 99')):
        path.write_text(damaged)
        with pytest.raises(DataError, match="no record of a claim"):
            Record.read(path)


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of a row that is measured and of one that fails."""
    rows = {"good": claim("good"), "bad": claim("bad", "fails")}
    monkeypatch.setattr(ledger_cli, "load_claims", lambda: rows)


def sosm(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["claims", *args])
    return done.exit_code, done.output


@pytest.mark.usefixtures("two_rows")
def test_the_command_measures_and_reports(tmp_path: Path):
    out = str(tmp_path / "out")
    code, said = sosm("run", "good", "--out", out)
    assert code == 0
    assert "1/1 good reproduced" in said
    code, said = sosm("run", "--out", out, "--jobs", "2")
    assert code == 1
    assert "bad failed: ZeroDivisionError: one cannot\nSee " in said
    assert "1 reproduced, 1 error" in said
    code, said = sosm("report", "--out", out)
    assert code == 1
    assert (tmp_path / "out" / "claims.md").is_file()
    code, said = sosm("report", "--out", out, "--compare", f"{out}/results.json")
    assert "Nothing changed" in said
    assert "unknown budget" in sosm("run", "--budget", "cheap", "--out", out)[1]


@pytest.mark.usefixtures("two_rows")
def test_an_unknown_claim_is_an_error(tmp_path: Path):
    code, said = sosm("run", "goud", "--out", str(tmp_path))
    assert code == 1
    assert "did you mean 'good'" in said


def test_outside_of_a_checkout_the_command_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said = sosm("report")
    assert code == 1
    assert "run this in a checkout" in said


@pytest.mark.slow
def test_rows_run_on_a_cluster(tmp_path: Path):
    claims = [claim("a"), claim("b", alone=True), claim("bad", "fails"), claim("rare", "lacks")]
    found = run_claims(claims, "quick", tmp_path, jobs=1, threads=1, ray="local")
    outcomes = [record.outcome for record in found]
    assert outcomes == ["measured", "measured", "error", "not measurable"]
    assert found[0].values == {"q": [1.0, 2.0, 3.0]}
    assert "one cannot" in found[2].message
    assert run_claims(claims[:2], "quick", tmp_path, jobs=1, threads=1) == found[:2]


SLOW = [c.id for c in load_claims().values()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The least that every measurement can do with; rows share what they train."""
    return Setting("tiny", (0,), 2, 512, tmp_path_factory.mktemp("trained"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_row_can_be_measured(name: str, tiny: Setting):
    row = load_claims()[name]
    record = ledger_run.measure(row, tiny)
    assert record.outcome in ("measured", "not measurable"), record.traceback
