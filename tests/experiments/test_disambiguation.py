"""A whole run of three arms at the smallest size, and no score without that of before training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from experiments import disambiguation, masked_runs
from experiments.disambiguation import (
    Tasks,
    accuracy,
    config_of,
    picture,
    report,
    table,
    train_and_score,
    untrained,
)
from experiments.harness import Job
from state_core.analysis import pseudowords
from state_core.analysis.disambiguation import SenseTask
from state_core.analysis.pseudowords import PseudowordTask
from state_core.training.run import load_text
from state_core.training.wordnet import read_wordnet
from tests.texts import sentences
from tests.training.wordnet_files import wordnet_files

SMALL = {
    "vocab_size": 300,
    "d_model": 16,
    "embed_rank": 8,
    "mlp_hidden": 16,
    "layers": ["mamba", "graph_attention"],
    "attention.n_heads": 2,
    "mamba.headdim": 8,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.seq_len": 32,
    "train.eval_batches": 1,
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Settings of a run on own text, with a WordNet and a task of few words."""
    monkeypatch.setenv("STATE_CORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disambiguation, "load_wordnet", lambda: read_wordnet(wordnet_files()))
    monkeypatch.setattr(pseudowords, "BEFORE", 20)
    few = partial(PseudowordTask.of, pairs=2, each=4)
    monkeypatch.setattr(disambiguation.PseudowordTask, "of", few)
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(sentences(60, seed), encoding="utf-8")
    return {**SMALL, "data.source": str(folder)}


@pytest.mark.slow
def test_a_run_scores_each_arm_before_and_after_and_is_not_done_twice(
    small: dict[str, object], tmp_path: Path
) -> None:
    jobs = [Job(arm, config_of(arm, small)) for arm in disambiguation.ARMS]
    found = [train_and_score(job, tmp_path / "out", 1, 4) for job in jobs]
    assert [train_and_score(job, tmp_path / "out", 1, 4) for job in jobs] == found
    for result in found:
        before, after = result["scores"]["untrained"], result["scores"]["trained"]
        assert before.keys() == after.keys()
        assert all(0 <= v <= 1 for v in (*before.values(), *after.values()))
    assert set(found[1]["scores"]["trained"]) == {"wordnet/hidden", "pseudowords/hidden"}
    baselines = Tasks.load(*_loaded(tmp_path / "out" / jobs[0].folder), 4).baselines()
    assert baselines["first sense"]["wordnet"] == 0.5
    view = table(found, baselines)
    assert view.row_count == len(baselines) + 3 + 1 + 3
    assert len(picture(found, baselines).data) == 4
    assert "Which sense" in report(found, baselines)


def _loaded(folder: Path) -> tuple[object, object]:
    model, tokenizer = disambiguation.load_any(folder, masked=False)
    return model.config, tokenizer


def test_a_model_before_training_is_that_of_its_seed(small: dict[str, object]) -> None:
    config = config_of("SOSM", small)
    model, tokenizer = disambiguation.SOSM(config), load_text(config).tokenizer
    tasks = Tasks.load(config, tokenizer)
    assert isinstance(tasks.senses, SenseTask)
    again = accuracy(untrained(model, 3), tokenizer, tasks)
    assert again == accuracy(untrained(model, 3), tokenizer, tasks)
    assert set(again) == {f"{t}/{k}" for t in disambiguation.TASKS for k in disambiguation.KINDS}


def test_masked_words_are_learnt(small: dict[str, object]) -> None:
    config = config_of("encoder", {**small, "train.steps": 60, "train.warmup": 5})
    text = load_text(config)
    first = masked_runs.train_encoder(Job("encoder", config.override({"train.steps": 0})), text)
    last = masked_runs.train_encoder(Job("encoder", config), text)
    assert masked_runs.masked_loss(last, text) < masked_runs.masked_loss(first, text) - 0.5
    again = masked_runs.train_encoder(Job("encoder", config.override({"train.steps": 0})), text)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
