"""Charts show every line by name, within their frame."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.analysis import svg
from state_core.analysis.svg import Series, line_chart, nice_ticks, smooth


def test_lines_are_drawn_inside_the_frame():
    points = [(1.0, 9.0), (10.0, 4.0), (100.0, 5.0)]
    chart = line_chart(
        "Loss", [Series("a <b>", points, "ours", marks=True)],
        x_label="step", x_ticks=[1, 100], log_x=True,
    )  # fmt: skip
    drawn = re.search(r'points="([^"]+)"', chart)
    assert drawn is not None
    for pair in drawn[1].split():
        x, y = map(float, pair.split(","))
        assert svg.LEFT <= x <= svg.WIDTH - svg.RIGHT
        assert svg.TOP <= y <= svg.HEIGHT - svg.BOTTOM
    assert "a &lt;b&gt; 5.00" in chart
    assert chart.count("<circle") == 3


def test_points_that_are_not_finite_are_left_out():
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]
    chart = line_chart("Loss", [Series("a", points, "ours")], x_label="", x_ticks=[0, 3])
    assert "nan" not in chart
    assert "inf" not in chart


def test_nothing_recorded():
    assert "Nothing was recorded" in line_chart(
        "Loss", [Series("a", [], "ours")], x_label="", x_ticks=[0]
    )


def test_names_do_not_overlap():
    lines = [Series(str(n), [(0.0, 1.0), (1.0, 1.0 + n / 1000)], "ours") for n in range(3)]
    chart = line_chart("Loss", lines, x_label="", x_ticks=[0, 1])
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="ours"', chart))
    assert len(places) == 3
    assert min(b - a for a, b in itertools.pairwise(places)) >= svg.LABEL_HEIGHT


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_within_the_range(low: float, span: float):
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 9
    assert all(low - span / 100 <= t <= low + span * 1.01 for t in ticks)


def test_smoothing_keeps_places_and_means():
    points = [(float(n), float(n % 2)) for n in range(40)]
    means = smooth(points, 3)
    assert [x for x, _ in means] == [x for x, _ in points]
    assert means[20][1] == pytest.approx(sum(n % 2 for n in range(17, 24)) / 7)
    assert smooth(points[:5], 3) == points[:5]
