"""What a run must survive: interruption, a kill, a full disk, a loss that explodes."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.audit import Finding
from state_core.errors import CheckpointError, StorageError, TrainingError
from state_core.training import loop
from state_core.training.checkpoint import KEPT, latest_checkpoint
from state_core.training.evaluate import Evaluation
from state_core.training.metrics import read_metrics
from state_core.training.progress import StepReport, Watcher
from state_core.training.run import load_run, resume, train

TIMING = {"seconds", "tokens_per_second"}


class StopAt(Watcher):
    """Sends this process a signal after a step, as Ctrl-C would."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number
        self.messages: list[str] = []
        self.reports: list[StepReport] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)
        if report.step == self.step:
            os.kill(os.getpid(), self.number)


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def log(run_dir: Path) -> list[dict[str, Any]]:
    kinds = ("train", "valid", "k1")
    records = [r for r in read_metrics(run_dir) if r["kind"] in kinds]
    return [{k: v for k, v in r.items() if k not in TIMING} for r in records]


@pytest.fixture
def whole(tiny: SOSMConfig, tmp_path: Path) -> Path:
    """A run that nothing interrupted."""
    train(tiny, tmp_path / "whole")
    return tmp_path / "whole"


def test_a_run_leaves_what_it_promises(tiny: SOSMConfig, whole: Path) -> None:
    steps = [r["step"] for r in read_metrics(whole, "train")]
    assert steps == [1, 3, 6, 8]
    assert [r["step"] for r in read_metrics(whole, "valid")] == [4, 8]
    assert [r["step"] for r in read_metrics(whole, "k1")] == [1, 4, 8]
    start = read_metrics(whole, "start")[0]
    assert start["config"] == tiny.to_dict() == json.loads((whole / "config.json").read_text())
    assert len(start["data_hash"]) == 64
    assert all(r["edges_per_token"] > 1 for r in read_metrics(whole, "train"))
    names = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert names == ["latest", "step-000006", "step-000008"]
    assert KEPT == 2
    model, tokenizer = load_run(whole)
    ids = torch.tensor([tokenizer.encode("abc abc")])
    assert math.isfinite(float(model(ids, labels=ids).loss.detach()))


@pytest.mark.parametrize(("step", "number"), [(2, signal.SIGINT), (5, signal.SIGTERM)])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tiny: SOSMConfig, whole: Path, tmp_path: Path, step: int, number: signal.Signals
) -> None:
    run_dir = tmp_path / "parts"
    watcher = StopAt(step, number)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    result = train(tiny, run_dir, watcher=watcher)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert result.interrupted
    assert result.steps == step
    assert f"sosm train --resume {run_dir}" in watcher.messages[-1]
    assert not (run_dir / "model").exists()
    load_run(run_dir)
    torch.manual_seed(99)  # whatever happened in between
    assert not resume(run_dir).interrupted
    assert weights(run_dir) == weights(whole)
    assert log(run_dir) == log(whole)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    tiny: SOSMConfig, whole: Path, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(whole)
    train(tiny.override({"train.seed": 1}), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(whole)


def test_k1_intervenes_and_at_strength_0_does_not(
    tiny: SOSMConfig, whole: Path, tmp_path: Path
) -> None:
    train(tiny.override({"train.k1_strength": 0.0}), tmp_path / "zero")
    assert weights(tmp_path / "zero") == weights(whole)
    strong = tiny.override({"train.k1_strength": 0.5})
    train(strong, tmp_path / "strong")
    assert weights(tmp_path / "strong") != weights(whole)
    first = [read_metrics(d, "train")[0]["loss"] for d in (whole, tmp_path / "strong")]
    assert first[0] == first[1]  # the first loss is of the same weights
    scales = [r["mean_scale"] for r in read_metrics(tmp_path / "strong", "k1")]
    assert all(0 < scale < 1 for scale in scales)
    assert "mean_scale" not in read_metrics(whole, "k1")[0]
    train(strong, tmp_path / "parts", watcher=StopAt(5))
    resume(tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "strong")
    assert log(tmp_path / "parts") == log(tmp_path / "strong")


def test_a_finished_run_resumes_to_itself_and_can_be_prolonged(whole: Path) -> None:
    before = weights(whole)
    resume(whole)
    assert weights(whole) == before
    result = resume(whole, overrides={"train.steps": 10})
    assert result.steps == 10
    assert weights(whole) != before
    with pytest.raises(CheckpointError, match="cannot change"):
        resume(whole, overrides={"d_model": 32})


KILLED_RUN = """
import json, sys
from state_core import SOSMConfig
from state_core.training.progress import Watcher
from state_core.training.run import train
class Say(Watcher):
    def on_step(self, report):
        print(report.step, flush=True)
train(SOSMConfig.from_dict(json.load(open(sys.argv[1]))), sys.argv[2], watcher=Say())
"""


def test_a_killed_run_resumes_to_the_same_bits(tiny: SOSMConfig, tmp_path: Path) -> None:
    """kill −9 while checkpoints are written at every step."""
    config = tiny.override({"train.save_every": 1, "train.steps": 10})
    train(config, tmp_path / "whole")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    run_dir = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "config.json"), str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:
                time.sleep(0.003)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    reached = int(latest_checkpoint(run_dir).name.removeprefix("step-"))
    assert 4 <= reached < 10
    resume(run_dir)
    assert weights(run_dir) == weights(tmp_path / "whole")
    assert log(run_dir) == log(tmp_path / "whole")
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))


def test_a_full_disk_keeps_the_last_checkpoint(tiny: SOSMConfig, tmp_path: Path) -> None:
    class Fill(Watcher):
        def on_step(self, report: StepReport) -> None:
            if report.step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StorageError, match="cannot write"):
            train(tiny, tmp_path / "run", watcher=Fill())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latest_checkpoint(tmp_path / "run").name == "step-000003"
    assert resume(tmp_path / "run").steps == 8


def test_a_loss_that_explodes_stops_before_the_step(tiny: SOSMConfig, tmp_path: Path) -> None:
    class Poison(Watcher):
        def on_step(self, report: StepReport) -> None:
            if report.step == 4:
                with torch.no_grad():
                    models[0].norm.weight.fill_(torch.nan)

    models: list[SOSM] = []
    fit = loop.Trainer.fit

    def remember(self: loop.Trainer) -> loop.TrainResult:
        models.append(self.model)
        return fit(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "fit", remember)
        with pytest.raises(TrainingError, match=r"step 5: the loss is nan.*lower train\.lr"):
            train(tiny, tmp_path / "run", watcher=Poison())
    assert latest_checkpoint(tmp_path / "run").name == "step-000003"
    assert resume(tmp_path / "run").steps == 8


@pytest.mark.parametrize("steps", [0, 1])
def test_runs_of_no_and_of_one_step(tiny: SOSMConfig, tmp_path: Path, steps: int) -> None:
    result = train(tiny.override({"train.steps": steps}), tmp_path / "run")
    assert result.steps == steps
    assert math.isnan(result.loss) == (steps == 0)
    assert load_run(tmp_path / "run")[0].config.train.steps == steps


def test_a_run_is_not_overwritten_by_accident(tiny: SOSMConfig, whole: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(tiny, whole)
    assert train(tiny.override({"train.steps": 1}), whole, overwrite=True).steps == 1
    assert [r["step"] for r in read_metrics(whole, "train")] == [1]


def test_bf16_and_activation_checkpointing_train(tiny: SOSMConfig, tmp_path: Path) -> None:
    recomputed = tiny.override({"train.activation_checkpointing": True, "dropout": 0.0})
    plain = tiny.override({"dropout": 0.0})
    train(recomputed, tmp_path / "recomputed")
    train(plain, tmp_path / "plain")
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / d, "train")] for d in ("recomputed", "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    result = train(tiny.override({"train.precision": "bf16"}), tmp_path / "bf16")
    assert math.isfinite(result.loss)
    model, _ = load_run(tmp_path / "bf16")
    assert torch.bfloat16 not in {p.dtype for p in model.parameters()}


def test_a_leaking_model_shows_no_perplexity(
    tiny: SOSMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(StopAt):
        def on_evaluation(self, step: int, evaluation: Evaluation, audited: bool) -> None:
            assert not audited

    leak = Finding("logits", "eval", 3, 1.0)
    report = loop.CausalityReport([leak], 9)
    monkeypatch.setattr(loop, "audit_causality", lambda model: report)
    watcher = Seen(step=0)
    train(tiny, tmp_path / "run", watcher=watcher)
    assert any("FAILED" in message for message in watcher.messages)
    assert watcher.reports
    assert all(r.perplexity is None for r in watcher.reports)


def test_tensorboard_and_wandb_are_written_when_asked_for(
    tiny: SOSMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny.override({"train.tensorboard": True, "train.steps": 2})
    train(config, tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_the_log_tells_how_experts_are_used(tiny: SOSMConfig, tmp_path: Path) -> None:
    moe = {"moe.routing": "token_choice", "moe.n_experts": 4, "moe.hidden": 8}
    train(tiny.override({**moe, "moe.from_layer": 1}), tmp_path / "run")
    for record in (r for r in read_metrics(tmp_path / "run") if r["kind"] == "train"):
        (usage,) = record["expert_usage"]
        assert len(usage) == 4
        assert sum(usage) == pytest.approx(1, abs=1e-3)
        assert record["expert_imbalance"] == pytest.approx(4 * max(usage), abs=1e-3)
