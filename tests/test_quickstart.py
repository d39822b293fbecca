"""The main job, whole and small: what it writes, what it reuses, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from state_core import SOSMConfig
from state_core.audit import CausalityReport, Finding
from state_core.errors import CheckpointError
from state_core.quickstart import STAGES, Outcome, Stage, quickstart
from state_core.training.progress import StepReport
from tests.texts import sentences


class Recorder(Stage):
    """A display that remembers. stop: sends Ctrl-C after this step of this stage."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.steps: dict[str, list[int]] = {}
        self.reused: list[str] = []
        self.stop = stop

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        self.stages.append(name)
        yield self

    def note(self, text: str) -> None:
        self.notes.append(text)

    def on_step(self, report: StepReport) -> None:
        self.steps.setdefault(self.stages[-1], []).append(report.step)
        if self.stop == (self.stages[-1], report.step):
            os.kill(os.getpid(), signal.SIGINT)

    def on_done(self, detail: str, reused: bool = False) -> None:
        if reused:
            self.reused.append(self.stages[-1])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SOSMConfig:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(sentences(), encoding="utf-8")
    return SOSMConfig.preset("default", vocab_size=300).override(
        {"data.source": str(folder), "d_model": 32, "embed_rank": 16, "mlp_hidden": 32}
        | {"layers": ["graph_attention"], "attention.n_heads": 2, "train.steps": 4}
        | {"train.seq_len": 48, "train.batch_size": 2, "train.log_every": 1, "train.save_every": 2}
    )


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_CORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("state_core.quickstart.WRITTEN", 8)
        yield


@pytest.fixture(scope="module")
def job(config: SOSMConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished job; not to be written to."""
    out = tmp_path_factory.mktemp("job")
    return out, go(config, out, command="sosm quickstart --set 'a<b'")


@pytest.fixture
def finished(job: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of a finished job."""
    return Path(shutil.copytree(job[0], tmp_path / "out"))


def go(config: SOSMConfig, out: Path, display: Recorder | None = None, **options) -> Outcome:
    return quickstart(config, out, display or Recorder(), **options)


def report_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_whole_job(job: tuple[Path, Outcome]):
    out, outcome = job
    ours, theirs = outcome.arms
    assert ours.tokens == theirs.tokens == 4 * 2 * 48
    assert abs(ours.parameters - theirs.parameters) <= 0.02 * ours.parameters
    assert ours.audit_passed
    assert theirs.audit_passed
    report = report_of(out)
    for part in ("Causality audit passed", "passage-graph", "A passage that it wrote", "sha256"):
        assert part in report
    assert f"{ours.perplexity('overall'):.1f}" in report
    assert "sosm quickstart --set &#x27;a&lt;b&#x27;" in report
    results = json.loads((out / "results.json").read_text())
    assert [arm["name"] for arm in results["arms"]] == ["SOSM", "transformer"]


def test_the_report_takes_nothing_from_text_or_network(job: tuple[Path, Outcome]):
    report = report_of(job[0])
    assert "\\u003c" in report  # the text has markup, and it is there as text
    assert "<i>" not in report
    assert "http" not in report.replace("http-equiv", "")


def test_again_reuses_what_is_finished(
    config: SOSMConfig, job: tuple[Path, Outcome], finished: Path
):
    display = Recorder()
    again = go(config, finished, display)
    assert tuple(display.stages) == STAGES
    assert display.reused == ["sosm", "transformer"]
    assert display.steps == {}
    assert [arm.evaluation for arm in again.arms] == [arm.evaluation for arm in job[1].arms]


def test_fresh_trains_anew(config: SOSMConfig, finished: Path):
    display = Recorder()
    go(config, finished, display, fresh=True)
    assert display.steps == {"sosm": [1, 2, 3, 4], "transformer": [1, 2, 3, 4]}
    assert not list(finished.glob("earlier-*"))


def test_another_configuration_keeps_the_earlier_runs(config: SOSMConfig, finished: Path):
    before = report_of(finished)
    display = Recorder()
    go(config.override({"train.steps": 2}), finished, display)
    assert "train.steps: 4 → 2" in display.notes[0]
    assert display.steps["sosm"] == [1, 2]
    assert report_of(finished / "earlier-1") == before
    assert (finished / "earlier-1" / "transformer" / "model").is_dir()


def test_another_text_keeps_the_earlier_runs(config: SOSMConfig, finished: Path, tmp_path: Path):
    (tmp_path / "other.txt").write_text(sentences(seed=1), encoding="utf-8")
    display = Recorder()
    go(config.override({"data.source": str(tmp_path / "other.txt")}), finished, display)
    assert "data.source" in display.notes[0]
    assert display.reused == []


@pytest.mark.parametrize("stop", [("sosm", 3), ("transformer", 2)])
def test_an_interrupted_job_goes_on(
    config: SOSMConfig, tmp_path: Path, job: tuple[Path, Outcome], stop: tuple[str, int]
):
    assert go(config, tmp_path, Recorder(stop)).interrupted
    assert not (tmp_path / "report.html").exists()
    display = Recorder()
    resumed = go(config, tmp_path, display)
    assert display.steps[stop[0]][0] == stop[1] + 1
    assert [arm.evaluation for arm in resumed.arms] == [arm.evaluation for arm in job[1].arms]


def test_a_run_killed_before_its_first_checkpoint_starts_again(config: SOSMConfig, finished: Path):
    for name in ("checkpoints", "model"):
        shutil.rmtree(finished / "sosm" / name)
    display = Recorder()
    go(config, finished, display)
    assert display.steps == {"sosm": [1, 2, 3, 4]}


def test_foreign_folders_are_left_alone(config: SOSMConfig, tmp_path: Path):
    mine = tmp_path / "sosm" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep me")
    with pytest.raises(CheckpointError, match="no run"):
        go(config, tmp_path, fresh=True)
    assert mine.read_text() == "keep me"


def test_a_leak_leaves_no_perplexity(
    config: SOSMConfig, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    leak = CausalityReport([Finding("graph.edges", "eval", 3, 0.5)], 9)
    monkeypatch.setattr("state_core.quickstart.audit_causality", lambda model: leak)
    outcome = go(config, finished)
    assert [arm.perplexity("overall") for arm in outcome.arms] == [None, None]
    report = report_of(finished)
    assert "Causality audit failed" in report
    assert "graph.edges" in report


@pytest.mark.parametrize("graph", [True, False])
def test_models_without_a_pointer_or_a_graph(config: SOSMConfig, tmp_path: Path, graph: bool):
    layers = ["graph_attention" if graph else "attention"]
    lesser = config.override(
        {"pointer.enabled": False, "graph.enabled": graph, "layers": layers, "train.steps": 1}
    )
    go(lesser, tmp_path)
    assert ("passage-graph" in report_of(tmp_path)) == graph
