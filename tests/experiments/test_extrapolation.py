"""The same targets at every length, and a whole run of two arms at the smallest size."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import extrapolation, long_windows
from experiments.extrapolation import arms, jobs, measure, picture, table, write_page
from experiments.harness import check_same_data
from experiments.long_windows import KINDS, kinds_of, score, target_losses
from state_core import SOSM, SOSMConfig
from state_core.audit import CausalityReport, Finding
from state_core.errors import CausalityError, DataError
from tests.texts import sentences

T = 16


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SOSMConfig:
    monkeypatch.setenv("STATE_CORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(sentences(60, seed), encoding="utf-8")
    return SOSMConfig.preset("default", vocab_size=300).override(
        {"data.source": str(folder), "d_model": 16, "embed_rank": 8, "mlp_hidden": 32}
        | {"layers": ["mamba", "graph_attention"], "attention.n_heads": 2, "pointer.dim": 8}
        | {"mamba.d_state": 4, "mamba.headdim": 8, "mamba.chunk_size": 8, "graph.chunk": 8}
        | {"train.steps": 2, "train.seq_len": T, "train.batch_size": 2, "train.eval_batches": 1}
    )


def test_windows_lie_in_one_document_and_targets_do_not_overlap() -> None:
    documents = [np.arange(8 * T + 2 * T + 3), np.arange(50), 10_000 + np.arange(8 * T)]
    found = long_windows.long_windows(documents, T, None)
    assert found.shape == (4, 8 * T)
    assert [row[-1].item() for row in found] == [8 * T - 1, 9 * T - 1, 10 * T - 1, 10_127]
    assert (found.diff(dim=1) == 1).all()
    few = long_windows.long_windows(documents, T, 2)
    assert few.tolist() == [found[0].tolist(), found[-1].tolist()]


def test_documents_too_short_are_an_error() -> None:
    with pytest.raises(DataError, match=r"holds 128 tokens.*the longest has 9"):
        long_windows.long_windows([np.arange(9)], T, None)


def test_kinds_divide_the_targets() -> None:
    window = torch.arange(8 * T)[None]  # nothing repeats
    window[0, -4:-2] = window[0, -14:-12]  # within the last T, beyond the sequential window
    window[0, -2:] = window[0, 5:7]  # only far back
    masks = kinds_of(window, T, near_enough=2)
    assert masks["overall"].all()
    assert masks["near"][0].nonzero().flatten().tolist() == [T - 4]
    assert masks["far"][0].nonzero().flatten().tolist() == [T - 2]
    assert (masks["near"].int() + masks["far"].int() + masks["other"].int() == 1).all()


def test_a_target_is_scored_after_just_so_much_text(config: SOSMConfig) -> None:
    model = SOSM(config).eval()
    rows = torch.randint(0, 300, (3, 8 * T))
    for factor in (1, 4):
        losses = target_losses(model, rows, T, factor)
        assert losses.shape == (3, T - 1)
        ids = rows[1:2, -factor * T :]
        alone = model(ids, labels=ids).token_nll[0, -(T - 1) :]
        torch.testing.assert_close(losses[1].float(), alone, rtol=1e-4, atol=1e-5)
    changed = rows.clone()
    changed[:, : 4 * T] = 0
    assert torch.equal(target_losses(model, changed, T, 4), target_losses(model, rows, T, 4))
    assert not torch.equal(target_losses(model, changed, T, 8), target_losses(model, rows, T, 8))


def test_a_model_that_leaks_gets_no_perplexity(
    config: SOSMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak = CausalityReport([Finding("logits", "one shot", 4, 1.0)], 8)
    monkeypatch.setattr(long_windows, "audit_causality", lambda model: leak)
    with pytest.raises(CausalityError, match="no perplexity is given"):
        score(SOSM(config), torch.zeros(1, 8 * T, dtype=torch.int64), T, 8)


def test_every_kind_of_positions_is_an_arm(config: SOSMConfig) -> None:
    configs = arms(config)
    kinds = {c.attention.positions for name, c in configs.items() if name.startswith("SOSM")}
    assert kinds == {"rope", "alibi", "graph_alibi", "graph_rope", "none"}
    assert {"transformer rope", "Mamba-2"} <= set(configs)
    assert len({c.train for c in configs.values()}) == 1


def test_a_run_is_whole_and_is_taken_up_again(
    config: SOSMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = list(jobs(config, ["SOSM graph_alibi", "transformer rope"], seeds=1))
    out = tmp_path / "out"
    work = partial(measure, out=out, threads=torch.get_num_threads(), windows=3)
    found = [work(job) for job in planned]
    check_same_data(found)
    assert all(r["targets"]["overall"] == 3 * (T - 1) for r in found)
    assert all([p["length"] for p in r["lengths"]] == [T, 2 * T, 4 * T, 8 * T] for r in found)
    assert all(math.isfinite(p["loss"]["overall"]) for r in found for p in r["lengths"])
    assert len(table(found, "overall").rows) == 2
    assert [trace.name for trace in picture(found, "far").data] == [j.arm for j in planned]
    write_page(found, out / "page.html")
    assert (out / "page.html").read_text(encoding="utf-8").count("<h2>") == len(KINDS)

    monkeypatch.setattr(extrapolation, "train", None)
    results = out / planned[0].folder / extrapolation.RESULTS
    assert work(planned[0]) == json.loads(results.read_text())
    results.unlink()  # killed between training and scoring
    assert work(planned[0]) == found[0]


def test_a_folder_of_another_configuration_is_not_taken_for_this_one(
    config: SOSMConfig, tmp_path: Path
) -> None:
    (job,) = jobs(config, ["SOSM none"], seeds=1)
    measure(job, tmp_path, torch.get_num_threads(), windows=1)
    folder = tmp_path / job.folder
    assert extrapolation.trained(folder, job.config)
    assert not extrapolation.trained(folder, job.config.override({"train.seq_len": 8}))
    assert not extrapolation.trained(tmp_path / "nothing", job.config)
