"""Reports survive the disk, say what changed, and refuse what is no report."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from state_core import bench
from state_core.bench.case import OURS, Comparison
from state_core.bench.timing import Spread
from state_core.errors import DataError

CHECK = Comparison("naive", 1e-7, 1e-4)


def result(length: int, ratio: float, batch: int = 1, **more) -> bench.Result:
    return bench.Result(
        case="graph_attention",
        shape={"B": batch, "T": length},
        axis="T",
        checks=[CHECK],
        seconds={OURS: Spread.of([1e-3 * length]), "sdpa": Spread.of([1e-6 * length**2])},
        ratio={"sdpa": Spread(ratio, 0.9 * ratio, 1.1 * ratio)},
        memory={OURS: 1000 * length, "sdpa": 3000 * length},
        rounds=3,
        **more,
    )


def report(*results: bench.Result, machine: str = "a") -> bench.Report:
    return bench.Report({"cpu": machine}, {"python": "3"}, "cpu", False, list(results))


def text(renderable: RenderableType) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    original = report(result(1024, 3.0, missing={"faiss": "gone"}, figures={"share": 0.1}))
    original.save(tmp_path / "new" / "bench.json")
    assert bench.Report.load(tmp_path / "new" / "bench.json") == original


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 99, "results": []}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bench\.json"):
        bench.Report.load(path)


def test_growth_compares_results_that_differ_in_size_alone():
    growth = report(result(1024, 1), result(4096, 4), result(512, 1, batch=8)).growth()
    assert [(g["fixed"], g["contender"]) for g in growth] == [("B1", OURS), ("B1", "sdpa")]
    assert (growth[0]["time"], growth[0]["memory"]) == (1.0, 1.0)
    assert growth[1]["time"] == 2.0


def test_compare_calls_only_what_lies_outside_the_spread_a_change():
    old = report(result(1024, 3.0), result(4096, 6.0), result(16384, 9.0))
    new = report(result(1024, 3.1), result(4096, 9.0), result(16384, 6.0))
    lines = [line for line in text(bench.compare(old, new)).splitlines() if "sdpa" in line]
    assert [next(w for w in ("same", "faster", "slower") if w in line) for line in lines] == [
        "same",
        "faster",
        "slower",
    ]


def test_compare_says_when_seconds_cannot_be_compared():
    old, new = report(result(1024, 3.0)), report(result(1024, 3.0), machine="b")
    assert "only the ratios" in text(bench.compare(old, new))
    assert "only the ratios" not in text(bench.compare(old, old))
    assert "No case" in text(bench.compare(old, report(result(2048, 3.0))))


def test_tables_show_the_ratio_beside_its_check_and_goal():
    shown = text(bench.render(report(result(1024, 3.0), result(4096, 5.0))))
    assert "✓" in shown
    assert "5.00× [4.50, 5.50]" in shown
    assert "✗ ≥ 8" in shown
    assert "memory ✓ ≤ 1.1" in shown


def test_tables_show_the_install_line_of_a_missing_peer():
    install = "pip install 'state-core[bench]'"
    assert install in text(bench.render(report(result(1024, 3.0, missing={"faiss": install}))))


def test_tables_show_no_time_on_a_red_check():
    red = bench.Result("ssd", {"T": 8}, "T", [Comparison("naive", 0.5, 1e-4)])
    shown = text(bench.render(report(red)))
    assert "naive: error 5.0e-01" in shown
    assert "not timed" in shown
