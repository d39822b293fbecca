"""A small text of its own statistics, and a model that trains on it in a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from state_core import SOSMConfig


def make_text(seed: int, words: int = 1500) -> str:
    """Sentences over a few words, so that bigrams repeat."""
    source = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    lexicon = ["".join(source.choices(letters, k=source.randint(2, 6))) for _ in range(60)]
    lines = [" ".join(source.choices(lexicon, k=8)) + "." for _ in range(words // 8)]
    return "\n".join(lines) + "\n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing a test fetches or learns goes to the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("STATE_CORE_CACHE", str(folder))
    return folder


@pytest.fixture
def text_of() -> Callable[..., str]:
    return make_text


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(make_text(i), encoding="utf-8")
    return folder


@pytest.fixture
def tiny(text_folder: Path) -> SOSMConfig:
    """Every part that carries state from step to step, at the smallest size."""
    return SOSMConfig.preset("default", vocab_size=300).override(
        {
            "data.source": str(text_folder),
            "d_model": 16,
            "embed_rank": 8,
            "layers": ["mamba", "graph_attention"],
            "mlp_hidden": 16,
            "dropout": 0.1,
            "attention.n_heads": 2,
            "mamba.d_state": 4,
            "mamba.headdim": 8,
            "mamba.chunk_size": 8,
            "pointer.dim": 8,
            "train.steps": 8,
            "train.warmup": 2,
            "train.batch_size": 2,
            "train.seq_len": 24,
            "train.accumulate": 2,
            "train.log_every": 3,
            "train.save_every": 3,
            "train.eval_every": 4,
            "train.eval_batches": 2,
            "train.k1_every": 4,
        }
    )
