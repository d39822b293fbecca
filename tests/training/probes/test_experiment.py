"""The experiment on probes, at the smallest size: it runs, resumes, and compares what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import probe_runs, probes
from experiments.probe_picture import picture
from state_core.audit import CausalityReport, Finding
from state_core.config import parse_overrides
from state_core.errors import CausalityError
from state_core.training.baselines import count_parameters
from state_core.training.probes import Induction

TINY = [
    "d_model=16",
    "embed_rank=8",
    "mlp_hidden=32",
    "attention.n_heads=4",
    "mamba.headdim=8",
    "mamba.d_state=4",
    "pointer.dim=8",
    "graph.landmarks=2",
    "train.seq_len=32",
    "train.eval_batches=1",
    "train.warmup=1",
]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = tuple(Induction(length=n, vocab_size=16, prefixes=2, repeats=2) for n in (16, 32))
    task = probe_runs.Task("induction", stages)
    monkeypatch.setattr(probes, "tasks", lambda: {"induction": task})


@pytest.mark.usefixtures("short")
def test_it_runs_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_runs, "audit_causality", lambda model: CausalityReport([], length=0))
    command = ["--out", str(tmp_path), "--tasks", "induction", "--steps", "2", "--seeds", "2"]
    command += ["--rates", "1e-3", "1e-2"] + [part for v in TINY for part in ("--set", v)]
    probes.main(command)
    found = json.loads((tmp_path / "results.json").read_text())
    names = {r["arm"] for r in found["arms"]}
    assert names == {"SOSM", "SOSM, phase 6", "full attention", "Mamba-2"}
    assert len(found["tuning"]) == len(found["arms"]) == 2 * len(names)
    for arm in names:
        rates = {r["lr"]: r["valid_loss"] for r in found["tuning"] if r["arm"] == arm}
        assert {r["lr"] for r in found["arms"] if r["arm"] == arm} == {min(rates, key=rates.get)}
    for seed in (0, 1):
        assert len({r["data_hash"] for r in found["arms"] if r["seed"] == seed}) == 1
    sizes = {r["arm"]: r["parameters"] for r in found["arms"]}
    assert all(abs(n - sizes["SOSM"]) <= 0.02 * sizes["SOSM"] for n in sizes.values())
    assert "induction" in capsys.readouterr().out
    assert "<script" in (tmp_path / "probes.html").read_text()

    monkeypatch.setattr(probe_runs, "train_on", None)
    probes.main(command)
    assert json.loads((tmp_path / "results.json").read_text()) == found


@pytest.mark.usefixtures("short")
def test_a_model_that_leaks_is_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leak = CausalityReport([Finding("logits", "eval", 3, change=1.0)], length=8)
    monkeypatch.setattr(probe_runs, "audit_causality", lambda model: leak)
    changes = {"train.steps": 1, **parse_overrides(TINY)}
    run = probe_runs.Run(probes.tasks()["induction"], "SOSM", probes.arms(16, changes)["SOSM"])
    with pytest.raises(CausalityError, match="no accuracy is given"):
        run.result(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("short")
def test_a_run_of_other_settings_is_another_run() -> None:
    task = probes.tasks()["induction"]
    config = probes.arms(16, {"train.steps": 2})["SOSM"]
    run = probe_runs.Run(task, "SOSM", config)
    shorter = probe_runs.Task("induction", task.stages[:1])
    wider = config.override({"d_model": 128})
    names = {r.name for r in (run, probe_runs.Run(task, "SOSM", wider))}
    assert len(names | {probe_runs.Run(shorter, "SOSM", config).name}) == 3


@pytest.mark.parametrize("name", probes.tasks())
def test_stages_lead_to_the_task_and_are_never_scored_on(name: str) -> None:
    task = probes.tasks()[name]
    config = probes.arms(task.probe.vocab_size, {"train.steps": len(task.stages)})["SOSM"]
    lengths = [task.batch(step, config).ids.shape[1] for step in range(len(task.stages))]
    assert lengths == [stage.length for stage in task.stages]
    assert lengths == sorted(lengths)
    assert all(stage.vocab_size == task.probe.vocab_size for stage in task.stages)
    first = [
        next(task.held_out(config, n)).ids.tolist() for n in (probe_runs.VALID, probe_runs.TEST)
    ]
    assert first[0] != first[1]


def test_arms_are_of_one_size() -> None:
    sizes = {arm: count_parameters(c) for arm, c in probes.arms(64, {}).items()}
    assert all(abs(n - sizes["SOSM"]) <= 0.02 * sizes["SOSM"] for n in sizes.values())


def test_the_picture_has_a_point_for_each_arm_and_task() -> None:
    found = [
        {
            "task": task,
            "arm": arm,
            "seed": seed,
            "probe": task,
            "state": {"elements": 100},
            "test": {"accuracy": accuracy},
        }
        for task in ("mqar", "induction")
        for arm in ("SOSM", "Mamba-2")
        for seed, accuracy in enumerate((0.5, 1.0))
    ]
    figure = picture(found)
    assert [list(trace.y) for trace in figure.data] == [[0.75]] * 4
    assert [trace.showlegend for trace in figure.data] == [True, False, True, False]
