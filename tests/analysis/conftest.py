"""A small model and a text that it reads."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.output import SOSMOutput

VOCABULARY = 64


def spell(ids: list[int]) -> list[str]:
    """Every id is a whole word of its own."""
    return [" word" + chr(97 + i // 26) + chr(97 + i % 26) for i in ids]


@pytest.fixture
def model() -> SOSM:
    config = SOSMConfig.preset("default", vocab_size=VOCABULARY).override(
        {"d_model": 32, "embed_rank": 16, "layers": ["graph_attention"], "mlp_hidden": 32}
        | {"attention.n_heads": 2, "graph.window": 3, "graph.successor": True}
    )
    return SOSM(config).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 60))


@pytest.fixture
def out(model: SOSM, ids: torch.Tensor) -> SOSMOutput:
    with torch.no_grad():
        return model(ids, return_graph=True)
