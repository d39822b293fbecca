"""A whole run at the smallest size, and differences that are paired and have the right sign."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import faithfulness
from experiments.faithfulness import (
    OURS,
    comparison,
    curves_of,
    gains,
    report,
    table,
    train_and_measure,
)
from experiments.harness import Job
from state_core import SOSMConfig
from tests.texts import sentences

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


@pytest.mark.slow
def test_a_run_measures_every_method_and_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_CORE_CACHE", str(tmp_path / "cache"))
    for name, value in (("LENGTH", 40), ("FIRST", 20), ("EVERY", 9)):
        monkeypatch.setattr(faithfulness, name, value)
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(sentences(60, seed), encoding="utf-8")
    config = SOSMConfig.preset("default").override({**SMALL, "data.source": str(folder)})
    job = Job("small", config)
    found = train_and_measure(job, tmp_path / "out", 1, texts=2)
    assert train_and_measure(job, tmp_path / "out", 1, texts=2) == found
    assert set(found["methods"]) >= {OURS, "attribution", "integrated gradients", "random"}
    assert len(curves_of([found], "small")[0].each_deletion) == 2 * 3
    assert table([found], "small").row_count == len(found["methods"])
    assert comparison([found], "small").row_count == len(found["methods"]) - 1
    assert report([found]).count("<h2") == 1


def result(seed: int, **means: float) -> dict[str, object]:
    """Methods that are so good on every measure, on predictions of differing difficulty."""
    hard = torch.rand(50, generator=torch.Generator().manual_seed(seed))
    each = {
        method: {
            name: (hard + sign * good).tolist() for name, (_, sign) in faithfulness.MEASURES.items()
        }
        | {"at": [0.0, 1.0], "deletion": [1.0, 0.0], "insertion": [0.0, 1.0]}
        for method, good in means.items()
    }
    return {"arm": "a", "seed": seed, "methods": each}


def test_gains_are_paired_and_positive_where_ours_is_better() -> None:
    results = [result(seed, **{OURS: 0.3, "worse": 0.1, "better": 0.4}) for seed in range(3)]
    for other, by in (("worse", 0.2), ("better", -0.1)):
        for _, gain, half in gains(results, "a", other):
            assert gain == pytest.approx(by, abs=1e-5)
            assert half < 1e-5
    rows = comparison(results, "a")
    wins, loses = (list(rows.columns[n].cells) for n in (5, 6))
    assert wins == ["deletion, insertion, fid+, fid−", "–"]
    assert loses == ["–", "deletion, insertion, fid+, fid−"]
