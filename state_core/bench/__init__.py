"""Benchmarks against what a user would pick instead: `sosm bench`.

    from state_core import bench
    report = bench.run("ops", quick=True)
    print(report.passed, report.results[0].ratio)

Speed is reported only beside a green correctness check, as a ratio against a peer timed in turns
with us in the same process.
"""

from __future__ import annotations

from state_core.bench import cases
from state_core.bench.case import CASES, Case, Comparison, Contender, Goal
from state_core.bench.cases.model import profile_training
from state_core.bench.profile import render as render_profile
from state_core.bench.report import Report, Result
from state_core.bench.runner import run, select
from state_core.bench.tables import compare, render

__all__ = [
    "CASES",
    "Case",
    "Comparison",
    "Contender",
    "Goal",
    "Report",
    "Result",
    "cases",
    "compare",
    "profile_training",
    "render",
    "render_profile",
    "run",
    "select",
]
