"""Training and evaluating with a memory: exact resume, and the same targets whatever is held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.errors import InputError
from state_core.training.evaluate_documents import evaluate_documents, score_documents
from state_core.training.run import load_run, load_text, resume, train
from tests.training.test_loop import StopAt, log, weights


@pytest.fixture
def remembering(tiny: SOSMConfig) -> SOSMConfig:
    changes = {"memory.enabled": True, "memory.k": 2, "memory.capacity": 60}
    return tiny.override({**changes, "train.consecutive": True})


@pytest.mark.parametrize("stop", [3, 5])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    remembering: SOSMConfig, tmp_path: Path, stop: int
) -> None:
    train(remembering, tmp_path / "whole")
    assert train(remembering, tmp_path / "parts", watcher=StopAt(stop)).interrupted
    resume(tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def test_a_trained_model_is_scored_with_its_memory(remembering: SOSMConfig, tmp_path: Path) -> None:
    train(remembering, tmp_path / "run")
    model, tokenizer = load_run(tmp_path / "run")
    ids = load_text(model.config, tokenizer).test[:400]
    read = []
    scores = [
        evaluate_documents(
            model, ids, remember=n, end=tokenizer.end_of_document,
            progress=lambda done, of: read.append((done, of)),
        )
        for n in (0, 40, 400)
    ]  # fmt: skip
    assert len({s.overall.nll for s in scores}) == 3
    for part in ("overall", "recall", "distant", "other"):
        assert len({getattr(s, part).tokens for s in scores}) == 1, part
    assert scores[0].overall.tokens == len(ids) - 1
    assert sum(s.tokens for s in scores[0].by_position) == len(ids) - 1
    assert scores[0].distant.tokens > 0
    assert read[-1] == (400, 400)


def test_distant_targets_are_those_seen_in_earlier_segments_only(remembering: SOSMConfig) -> None:
    torch.manual_seed(0)
    model = SOSM(remembering.override({"memory.enabled": False, "graph.window": 0}))
    # Segments of five: 1 2 3 4 5 | 5 1 2 8 9 | 9 8 9 8 9; then targets of three kinds.
    ids = np.array([1, 2, 3, 4, 5, 1, 2, 8, 9, 8, 9, 8, 9])
    scores = score_documents(model, ids, remember=0, seq_len=5, recall_window=0)
    # (1, 2) and the third segment's first (8, 9) were seen in an earlier segment, (9, 8) and
    # (8, 9) afterwards in their own.
    assert scores.distant.tokens == 2
    assert scores.recall.tokens == 2
    assert scores.other.tokens == 8


def test_bad_sizes_are_refused(remembering: SOSMConfig) -> None:
    model, ids = SOSM(remembering), np.arange(40)
    with pytest.raises(InputError, match="remember"):
        score_documents(model, ids, remember=-1, seq_len=8, recall_window=0)
