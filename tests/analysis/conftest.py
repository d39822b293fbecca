"""A small model and a text that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.analysis.explorer import Reader
from state_core.output import SOSMOutput
from state_core.training.tokenizer import Tokenizer
from tests.analysis.browser import launched
from tests.invariants.variants import build
from tests.texts import sentences

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="package")
def readers() -> list[Reader]:
    """Two models of one vocabulary: one with all that a graph can have, and a plain one."""
    tokenizer = Tokenizer.train([sentences()], 300)
    return [
        reader("whole", "all of the graph", tokenizer),
        reader("plain", "successors", tokenizer),
    ]


def reader(name: str, variant: str, tokenizer: Tokenizer) -> Reader:
    model = build(variant)
    config = model.config.override({"vocab_size": tokenizer.vocab_size})
    torch.manual_seed(len(name))
    return Reader(name, SOSM(config).eval(), tokenizer)
