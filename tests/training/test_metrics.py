from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from state_core import SOSMConfig
from state_core.errors import MissingExtraError
from state_core.training.evaluate import Evaluation, Score
from state_core.training.metrics import JsonLines, open_sinks, read_metrics
from state_core.training.progress import ConsoleWatcher, StepReport

LOSS = {"kind": "train", "loss": 1.0}


def report(step: int, **values: Any) -> StepReport:
    base: dict[str, Any] = {
        "step": step, "steps": 9, "loss": 2.0, "perplexity": 7.389, "tokens_per_second": 12345.6,
        "edges_per_token": 20.25, "seconds_left": 3725,
    }  # fmt: skip
    return StepReport(**{**base, **values})


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    log = JsonLines(tmp_path, 0)
    for step in (1, 2, 3):
        log.write({**LOSS, "step": step})
    log.write({"kind": "end", "step": 2})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 2]
    JsonLines(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{**LOSS, "step": 1}, {**LOSS, "step": 2}]
    JsonLines(tmp_path, 0).close()
    assert read_metrics(tmp_path) == []
    assert read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(("package", "key"), [("wandb", "wandb"), ("torch.utils", "tensorboard")])
def test_a_missing_logger_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, key: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith(package) and name != "torch.utils":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    config = SOSMConfig.preset("default").override({f"train.{key}": True})
    with pytest.raises(MissingExtraError, match="pip install 'state-core"):
        open_sinks(config, tmp_path, 0)


def test_a_pipe_gets_plain_lines_and_not_too_many() -> None:
    out = io.StringIO()
    with ConsoleWatcher(Console(file=out, width=200)) as watcher:
        for step in range(1, 10):
            watcher.on_step(report(step))
    lines = out.getvalue().splitlines()
    assert lines == [
        f"training {step}/9  loss 2.000  ppl 7.4  12,346 tok/s  20.2 edges/tok  1:02:05 left"
        for step in (1, 9)
    ]


def test_a_terminal_gets_one_live_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True)
    with ConsoleWatcher(console, "sosm") as watcher:
        watcher.on_step(report(1))
        watcher.on_message("a [bracket] is kept")
        watcher.on_step(report(9, perplexity=None, edges_per_token=None, seconds_left=5))
    text = out.getvalue()
    assert "a [bracket] is kept" in text
    assert "9/9" in text
    assert "loss 2.000  12,346 tok/s  0:05 left" in text


def test_an_unaudited_evaluation_shows_no_perplexity() -> None:
    score = Score("overall", 10, 20.0)
    evaluation = Evaluation(score, Score("recall", 0, 0.0), score, (), 1, 11)
    out = io.StringIO()
    watcher = ConsoleWatcher(Console(file=out, width=200))
    watcher.on_evaluation(5, evaluation, audited=False)
    watcher.on_evaluation(5, evaluation, audited=True)
    assert out.getvalue().splitlines() == [
        "step 5: held-out loss 2.000",
        "step 5: held-out loss 2.000, perplexity 7.4",
    ]
