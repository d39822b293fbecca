"""Throughput at the smallest size: equal parameters, whole records, a verdict that can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import throughput
from state_core.audit import CausalityReport, Finding
from state_core.bench.memory import MemoryProbeError
from state_core.errors import CausalityError
from state_core.training.baselines import count_parameters


def test_all_arms_are_as_large_as_phase_6() -> None:
    sizes = {name: count_parameters(config) for name, config in throughput.arms().items()}
    assert set(sizes) == {"phase2", "phase6", "transformer"}
    assert all(abs(size - sizes["phase6"]) <= 0.02 * sizes["phase6"] for size in sizes.values())


def test_a_batch_holds_about_as_many_tokens_at_every_length() -> None:
    assert [tuple(throughput.batch(t, 64).shape) for t in (8, 64, 128)] == [
        (8, 8),
        (1, 64),
        (1, 128),
    ]


def test_records_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak_memory", lambda *_: 2**30)
    said: list[str] = []
    found = throughput.measure_length(16, 32, 0.0, torch.get_num_threads(), said.append)
    assert [r["arm"] for r in found] == ["phase2", "phase6", "transformer"]
    for record in found:
        for work in throughput.WORK:
            assert 0 < record[work]["tokens_per_second"] <= record[work]["best"]
    assert found[-1]["train"]["ratio"] == 1.0
    assert len(throughput.table(found).rows) == 3
    assert "peak of 1.00 GiB: under 12 GiB" in throughput.verdict(found)
    assert len(said) == 8
    found[1]["train"]["peak_bytes"] = 13 * 2**30
    assert "13.00 GiB: NOT under 12 GiB" in throughput.verdict(found)


def test_a_model_that_leaks_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    leak = CausalityReport([Finding("logits", "one shot", 4, 1.0)], 8)
    monkeypatch.setattr(throughput, "audit_causality", lambda model: leak)
    with pytest.raises(CausalityError, match="phase2 is not timed"):
        throughput.audited(throughput.arms())


def test_a_probe_sees_the_whole_process() -> None:
    held = throughput.probe("transformer", "read", 16, 16, torch.get_num_threads())
    assert 2**26 < held < 2**34


def test_a_probe_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nKeyError: 'nothing'\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MemoryProbeError, match="memory of nothing at T = 16: KeyError"):
        throughput.peak_memory("nothing", "read", 16, 16, 1)


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    sizes = ["--lengths", "16", "--tokens", "16", "--seconds", "0", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.throughput", *sizes],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "phase6 trains at T = 16" in done.stdout
    assert out.is_file()
