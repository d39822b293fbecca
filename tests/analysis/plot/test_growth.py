"""The picture of a benchmark's report: a panel per case, a line per contender."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_core.analysis.plot.growth import scaling, write_scaling
from state_core.bench.case import OURS, Comparison
from state_core.bench.report import Report, Result
from state_core.bench.timing import Spread
from state_core.errors import InputError


def result(case: str, length: int, **seconds: float) -> Result:
    return Result(
        case,
        {"B": 1, "T": length},
        "T",
        [Comparison("naive", 0.0, 1e-4)],
        seconds={name: Spread(s, 0.9 * s, 1.2 * s) for name, s in seconds.items()},
    )


def report(*results: Result) -> Report:
    return Report({"cpu": "a <b>"}, {}, "cpu", False, list(results))


def test_a_panel_a_case_and_a_line_a_contender():
    linear = [result("ssd", t, **{OURS: 1e-5 * t, "peer": 1e-8 * t * t}) for t in (64, 256)]
    figure = scaling(report(*linear, result("rms_norm", 64, **{OURS: 1.0})))
    lines = {trace.name: list(trace.y) for trace in figure.data}
    assert lines == {
        f"{OURS} ∝ T^1.00": pytest.approx([64e-5, 256e-5]),
        "peer ∝ T^2.00": pytest.approx([1e-8 * 64**2, 1e-8 * 256**2]),
    }
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_a_contender_left_out_at_a_size_keeps_its_own_points():
    small, large = result("ssd", 64, **{OURS: 1.0, "peer": 2.0}), result("ssd", 128, **{OURS: 2.0})
    traces = {trace.name.split()[0]: list(trace.x) for trace in scaling(report(small, large)).data}
    assert traces == {OURS: [64, 128], "peer": [64]}


def test_one_size_is_nothing_to_draw():
    with pytest.raises(InputError, match="two sizes"):
        scaling(report(result("ssd", 64, **{OURS: 1.0})))


def test_the_page_loads_nothing_and_escapes(tmp_path: Path):
    results = [result("ssd", t, **{OURS: 1e-5 * t}) for t in (64, 256)]
    write_scaling(report(*results), tmp_path / "scaling.html")
    page = (tmp_path / "scaling.html").read_text()
    assert "a &lt;b&gt;" in page
    assert '<script src="http' not in page
