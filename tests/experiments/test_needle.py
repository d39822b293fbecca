"""A needle that is out of reach without a memory, at the smallest size."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments import needle
from experiments.needle import CONFIG, read, run, table
from state_core import SOSM, SOSMConfig
from state_core.training.probes import Needle
from state_core.training.run import load_text
from tests.texts import sentences


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SOSMConfig:
    monkeypatch.setenv("STATE_CORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(needle, "SEGMENT", 32)
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(sentences(400, seed), encoding="utf-8")
    small = {"vocab_size": 300, "d_model": 16, "embed_rank": 8, "train.seq_len": 32}
    more = {"train.steps": 2, "train.batch_size": 2, "memory.capacity": 128}
    base = SOSMConfig.preset("default").override({**CONFIG, **small, **more})
    return base.override({"attention.n_heads": 2, "data.source": str(folder)})


def test_the_question_is_read_last_and_memory_holds_the_fact(config: SOSMConfig) -> None:
    torch.manual_seed(0)
    model = SOSM(config).eval()
    batch = Needle(128, 90, 300, key_tokens=4).batch(3, seed=0)
    out = read(model, batch.ids, batch.labels, capacity=128)
    assert int(out.token_nll.count_nonzero()) == 3
    assert (out.recalled.words[:, -2] == batch.ids[:, -1:]).any(-1).all()
    without = read(model, batch.ids, batch.labels, capacity=0)
    assert without.recalled is None
    assert not torch.equal(out.logits, without.logits)


def test_a_whole_run_counts_right_answers_and_is_not_done_twice(
    config: SOSMConfig, tmp_path: Path
) -> None:
    options = Namespace(out=tmp_path / "out", texts=4, distances=[40, 90])
    text = load_text(config)
    found = run(config, text, options)
    assert [(r["distance"], r["remembered"] > 0) for r in found["rows"]] == [
        (40, True), (40, False), (90, True), (90, False),
    ]  # fmt: skip
    assert all(0 <= r["right"] <= r["asked"] == 4 for r in found["rows"])
    assert run(config, text, options)["rows"] == found["rows"]
    assert table([found]).row_count == 2
