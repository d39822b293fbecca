"""What measurements share: times, peaks and trained runs are what they say."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import measures
from experiments.harness import Job
from experiments.ledger import Setting
from state_core.bench.memory import MemoryProbeError
from state_core.config import SOSMConfig
from state_core.errors import TrainingError
from state_core.training.baselines import count_parameters
from tests.experiments.measurements import holds

SMALL = SOSMConfig.preset("baseline", vocab_size=300).override(
    {"d_model": 32, "layers": ["attention"], "mlp_hidden": 64, "embed_rank": 16}
)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("tiny", (0, 1), 2, 1024, tmp_path, 1)


def sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_a_speedup_is_how_many_times_longer_the_peer_takes(setting: Setting):
    found = measures.speedup(setting, sleeping(0.01), sleeping(0.03))
    assert len(found) == 2
    assert all(1.5 < ratio < 6 for ratio in found)
    inverse = measures.time_ratio(setting, sleeping(0.01), sleeping(0.03))
    assert all(1 / 6 < ratio < 1 / 1.5 for ratio in inverse)


@pytest.mark.skipif(not Path("/proc").exists(), reason="peak memory is read from /proc")
def test_a_peak_holds_what_is_prepared_and_what_is_called(setting: Setting):
    peak = measures.peak_bytes(setting, holds, 64, warm=[1])
    assert 120 * 2**20 < peak < 256 * 2**20  # where memory is short, pages of libraries come back
    with pytest.raises(MemoryProbeError, match=r"measurements:holds: .*"):
        measures.peak_bytes(setting, holds, -1, warm=[1])


def test_arms_are_as_large_as_they_are_said_to_be():
    wide = SMALL.override({"layers": ["attention"] * 2})
    found = measures.of_size(SMALL, wide)
    assert count_parameters(found) == pytest.approx(count_parameters(wide), rel=0.02)


def test_a_run_is_planned_as_the_setting_says(setting: Setting):
    train = measures.planned(setting, SMALL, 7).train
    assert (train.steps, train.seed, train.warmup) == (2, 7, 1)
    assert train.batch_size * train.seq_len == setting.tokens
    standard = Setting("standard", (0,), 2, 1024, setting.folder, 1)
    assert measures.planned(standard, SMALL, 7).train.batch_size == train.batch_size // 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_trains(precision: str):
    seen: list[bool] = []
    config = SMALL.override({"train.precision": precision, "train.lr": 1e-2})
    ids = measures.texts(config, 64, 32)
    step = measures.Step(config, ids, lambda m: seen.append(m.embedding.codes.weight.grad is None))
    losses = [step() for _ in range(4)]
    assert tuple(ids.shape) == (2, 32)
    assert losses[-1] < losses[0]
    assert seen == [False] * 4


def results(job: Job, out: Path, threads: int) -> dict[str, Any]:
    """A run that takes no time, of a loss that grows with the seed and the steps' rate."""
    path = out / job.folder / "results.json"
    assert not path.is_file(), "it is asked for once"
    train = job.config.train
    loss = train.lr * (1 + train.seed)
    found = {"test": {"overall": {"loss": loss}}, "data_hash": f"seed {train.seed}"}
    path.write_text(json.dumps(found))
    return found


def test_runs_are_those_of_each_seed(setting: Setting):
    arms = {"slow": SMALL.override({"train.lr": 0.1}), "fast": SMALL.override({"train.lr": 0.3})}
    runs = measures.trained(setting, arms, work=results)
    ratios = measures.perplexity_ratio(runs, "fast", "slow")
    assert ratios == pytest.approx([math.exp(0.2), math.exp(0.4)])
    assert setting.data == {"seed 0", "seed 1"}
    assert len({r["folder"] for found in runs.values() for r in found}) == 4


def test_arms_that_read_other_batches_are_refused(setting: Setting):
    def elsewhere(job: Job, out: Path, threads: int) -> dict[str, Any]:
        return {"data_hash": job.arm}

    with pytest.raises(TrainingError, match="arms of seed 0 read different batches"):
        measures.trained(setting, {"a": SMALL, "b": SMALL}, work=elsewhere)


def test_a_run_that_another_trains_is_waited_for(setting: Setting, monkeypatch: Any):
    """Others are trained first; what was found is taken once the other lets go."""
    order: list[str] = []

    def work(job: Job, out: Path, threads: int) -> dict[str, Any]:
        order.append(job.arm.split()[0])
        return {"data_hash": ""}

    config = measures.planned(setting, SMALL, 0)
    taken = setting.folder / measures._job("a", config).folder
    holder = measures._claimed(taken)
    assert holder.__enter__()
    monkeypatch.setattr(measures.time, "sleep", lambda _: holder.__exit__(None, None, None))
    monkeypatch.setattr(measures, "WAIT", 0)
    one_seed = Setting("tiny", (0,), 2, 1024, setting.folder, 1)
    measures.trained(one_seed, {"a": SMALL, "b": SMALL}, work=work)
    assert order == ["b", "a"]


def test_texts_are_as_long_as_asked():
    assert measures.texts(SMALL, 4096).shape == torch.Size([8, 512])
    assert measures.texts(SMALL, 16).shape == torch.Size([1, 16])
