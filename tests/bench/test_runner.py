"""No speed on a red check; missing peers and unknown names are said clearly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from state_core import bench
from state_core.bench import timing
from state_core.bench.case import CASES, OURS
from state_core.errors import BackendError, ConfigError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "SHORTEST_SAMPLE", 1e-9)
    monkeypatch.setattr(timing, "PAUSE", 0)


@pytest.fixture
def toy() -> Iterator[dict[str, Any]]:
    """A case whose error the test can set, and which notes whether it was timed."""
    told: dict[str, Any] = {"error": 0.0, "timed": 0}

    def prepare(size: int):
        def thunk():
            told["timed"] += 1

        return thunk

    bench.Case(
        name="toy",
        group="ops",
        about="nothing",
        sizes=({"B": 1, "T": 4}, {"B": 1, "T": 8}),
        quick=({"B": 1, "T": 2},),
        inputs=lambda shape, device: shape["T"],
        contenders=(
            bench.Contender(OURS, prepare),
            bench.Contender("peer", prepare),
            bench.Contender("absent", prepare, "no_such_package"),
            bench.Contender("elsewhere", prepare, devices=("cuda",)),
        ),
        check=lambda device: [bench.Comparison("naive", told["error"], 1e-4)],
        figures=lambda inputs: {"size": float(inputs)},
        goals=(bench.Goal("peer", least=2, at=8), bench.Goal("size", most=5)),
    )
    yield told
    del CASES["toy"]


def run_toy(**options: Any) -> bench.Report:
    return bench.run("toy", memory=False, budget=0, progress=lambda _: None, **options)


def test_a_green_check_is_timed_at_every_size(toy: dict[str, Any]):
    report = run_toy()
    assert report.passed
    assert [r.size for r in report.results] == [4, 8]
    assert set(report.results[0].seconds) == {OURS, "peer"}
    assert set(report.results[0].ratio) == {"peer"}
    assert report.results[1].figures == {"size": 8}


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_red_check_is_not_timed(toy: dict[str, Any], error: float):
    toy["error"] = error
    report = run_toy()
    assert not report.passed
    assert toy["timed"] == 0
    assert report.results[0].seconds == {}


def test_missing_peers_are_reported_with_what_to_do(toy: dict[str, Any]):
    missing = run_toy(quick=True).results[0].missing
    assert "pip install 'state-core[bench]'" in missing["absent"]
    assert missing["elsewhere"] == "runs on cuda only"


def test_goals_belong_to_a_size(toy: dict[str, Any]):
    case = CASES["toy"]
    assert case.goal("peer", 4) is None
    assert case.goal("peer", 8).reached(2.0)
    assert not case.goal("peer", 8).reached(1.9)
    assert not case.goal("size", 8).reached(8.0)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="graph_attention"):
        bench.select("graph_atention")
    with pytest.raises(ConfigError, match="model"):
        bench.select("modle")


def test_names_and_groups_mix():
    def names(*words: str) -> list[str]:
        return [case.name for case in bench.select(*words)]

    assert names("ssd") == ["ssd"]
    assert set(names("ssd", "model")) == {"ssd", *names("model")}
    assert set(names()) == set(CASES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_is_a_clear_error():
    with pytest.raises(BackendError, match="no CUDA device"):
        bench.run("ops", device="cuda")
