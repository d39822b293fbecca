"""Every registered case checks out at small size, bites when an op is wrong, and can be run."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from state_core import bench, ops
from state_core.bench.case import CASES, OURS, Case
from state_core.bench.inputs import spread_rows
from state_core.bench.memory import measure, peak_memory
from state_core.bench.products import scan_products

CPU = torch.device("cpu")
OPS = bench.select("ops")


@given(st.integers(1, 2), st.integers(1, 40), st.integers(1, 12))
def test_spread_rows_are_distinct_and_causal(batch: int, length: int, edges: int):
    neighbors, counts = spread_rows(batch, length, edges, CPU)
    for row in range(batch):
        for i in range(length):
            chosen = neighbors[row, i, : counts[row, i]].tolist()
            assert len(chosen) == len(set(chosen)) == min(edges, i + 1)
            assert all(0 <= j <= i for j in chosen)


@pytest.mark.parametrize("case", OPS, ids=lambda case: case.name)
def test_ops_agree_with_their_references_and_peers(case: Case):
    checks = case.check(CPU)
    assert len(checks) > 1
    assert [c for c in checks if not c.passed] == []


@pytest.mark.parametrize("case", OPS, ids=lambda case: case.name)
def test_every_contender_runs(case: Case):
    inputs = case.inputs(case.quick[0], CPU)
    for contender in case.contenders:
        assert contender.missing(CPU) is None
        contender.prepare(inputs)()


@pytest.mark.parametrize("name", ["graph_attention", "ssd", "edge_scores", "token_logprob"])
def test_a_wrong_op_is_caught(name: str, monkeypatch: pytest.MonkeyPatch):
    right = getattr(ops, name)

    def wrong(*args, backend="auto"):
        out = right(*args, backend=backend)
        return out if backend == "naive" else out * 1.01

    monkeypatch.setattr(ops, name, wrong)
    assert not all(check.passed for check in CASES[name].check(CPU))


def test_every_case_speaks_of_its_axis():
    for case in CASES.values():
        assert case.contender(OURS)
        assert all(case.axis in shape for shape in (*case.sizes, *case.quick))


def test_the_high_water_mark_sees_a_passing_allocation():
    def allocate():
        fresh = mmap.mmap(-1, 64 * 2**20)  # torch might take a block that was touched before
        np.frombuffer(fresh, np.uint8).fill(1)

    assert 60 * 2**20 < measure(allocate, CPU) < 90 * 2**20


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    small, large = ({"B": 1, "T": t, "H": 8, "D": 64, "E": 64} for t in (2048, 8192))
    held = [peak_memory("graph_attention", OURS, shape, CPU) for shape in (small, large)]
    assert 2 < held[1] / held[0] < 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training", "decoding"])
def test_model_cases_run(name: str):
    report = bench.run(name, quick=True, memory=False, progress=lambda _: None)
    assert report.passed
    assert set(report.results[0].ratio) == {"transformer", "mamba2"}


@pytest.mark.slow
def test_keeping_internals_changes_no_bit_and_is_timed_beside_a_plain_pass():
    report = bench.run("internals", quick=True, memory=False, progress=lambda _: None)
    assert report.passed
    assert set(report.results[0].figures) == {"points / forward", "points / token"}
    assert set(report.results[0].ratio) == {"blocks.2.attn.pattern kept", "every name kept"}


@pytest.mark.slow
def test_the_memory_case_runs():
    report = bench.run("memory", quick=True, memory=False, progress=lambda _: None)
    assert report.passed
    assert set(report.results[0].ratio) == {"hnswlib", "faiss", "usearch", "exact"}
    assert all(result.figures["recall"] > 0.9 for result in report.results)


def test_the_products_of_a_scan_are_those_of_its_chunked_form():
    counter = FlopCounterMode(display=False)
    with counter:
        scan_products(2, 130, 4, 2, 8, 16, 64, CPU)()
    chunks, side = 2 * 3, 2 * 8
    scores = 3 * 2 * 64 * 16 * 64
    within = 3 * 4 * 64 * 64 * 8
    states = 6 * 2 * side * 64 * 16
    assert counter.get_total_flops() == 2 * chunks * (scores + within + states)


@pytest.mark.slow
def test_the_profile_tells_most_of_a_step():
    found = bench.profile_training(quick=True)
    names = {part.name for part in found.parts}
    assert {"matrix products of linear layers", "ssd", "graph_attention", "token_logprob"} <= names
    assert "ssd_backward" not in names
    assert 0 < found.products < found.seconds
    assert sum(part.seconds for part in found.parts) > 0.3 * found.seconds
