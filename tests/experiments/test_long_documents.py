"""A whole run of two arms at the smallest size: scored on the same targets, and drawn."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from experiments import long_documents
from experiments.harness import best_rates, check_same_data
from experiments.long_documents import arms, jobs, report, tables, train_and_score, tuning
from tests.texts import sentences

SMALL = {
    "d_model": 16,
    "embed_rank": 8,
    "mlp_hidden": 32,
    "vocab_size": 300,
    "pointer.dim": 8,
    "layers": ["mamba", "graph_attention"],
    "attention.n_heads": 4,
    "memory.capacity": 64,
    "mamba.d_state": 4,
    "mamba.headdim": 8,
    "mamba.chunk_size": 8,
    "graph.chunk": 8,
    "train.steps": 4,
    "train.seq_len": 16,
    "train.batch_size": 2,
    "train.eval_batches": 1,
}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STATE_CORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(sentences(60, seed), encoding="utf-8")
    monkeypatch.setattr(long_documents, "CORPORA", (str(folder),))
    monkeypatch.setattr(long_documents, "SIZES", (32, 64))
    return str(folder)


def test_arms_are_of_one_size_and_read_the_same(corpus: str, tmp_path: Path) -> None:
    configs = arms({**SMALL, "data.source": corpus})
    assert {c.train.consecutive for c in configs.values()} == {True}
    assert [c.memory.enabled for c in configs.values()] == [True, False, False, False, False]
    assert best_rates([{"arm": "a", "lr": r, "valid_loss": -r} for r in (1, 2)]) == {"a": 2}
    assert {j.config.train.steps for j in tuning(configs)} == {1}

    chosen = {name: configs[name] for name in ("phase6", "transformer")}
    planned = list(jobs(chosen, dict.fromkeys(chosen, 1e-3), seeds=1))
    work = partial(train_and_score, max_tokens=200)
    found = [work(job, tmp_path / "out", 1) for job in planned]
    check_same_data(found)
    rows = [found[0]["scores"][corpus][n] for n in ("0", "32", "64")]
    for part in range(4):
        counts = {row[part]["tokens"] for row in [*rows, found[1]["scores"][corpus]["0"]]}
        assert len(counts) == 1
    assert rows[0][0]["tokens"] == 199
    assert len({row[0]["loss"] for row in rows}) == 3
    (view,) = tables(found)
    assert view.row_count == 4
    assert "What memory is worth" in report(found)
    assert work(planned[0], tmp_path / "out", 1) == found[0]
