"""What models trained on merged words are asked, and the words that pseudowords stand beside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.pseudowords import ambiguity_of_k, as_frequent, percent, points_gained

PIECES = [" harbour", " forest", " kitchen", " garden", " river", " meadow", ",", " Rome", "ing"]
PAIRS = np.array([[0, 1], [2, 3]])


@pytest.fixture
def text() -> Any:
    """A merged text in which words 4 and 5 are as frequent as the pseudowords 0 and 2."""
    counts = [60, 0, 20, 0, 58, 22, 60, 60, 20]
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(len(PIECES)), counts))
    tokenizer = SimpleNamespace(vocab_size=len(PIECES), pieces=lambda _: PIECES)
    return SimpleNamespace(test=ids, tokenizer=tokenizer, task=SimpleNamespace(words=PAIRS))


class Asks(nn.Module):
    """Says how many edges each token asks for, by its id."""

    def __init__(self, wanted: Tensor) -> None:
        super().__init__()
        self.wanted = wanted

    def forward(self, ids: Tensor) -> Tensor:
        return self.wanted[ids]


def model_of(wanted: list[int] | None) -> Any:
    asks = None if wanted is None else Asks(torch.tensor(wanted))
    graph = SimpleNamespace(enabled=True)
    train = SimpleNamespace(seq_len=30, batch_size=2)

    class Model:
        config = SimpleNamespace(graph=graph, train=train)
        graph_builder = SimpleNamespace(adaptive_k=asks)

        def __call__(self, ids: Tensor) -> None:
            assert asks is not None
            asks(ids)

    return Model()


def test_controls_are_other_words_as_frequent(text: Any) -> None:
    assert as_frequent(text).tolist() == [4, 5]


def test_the_correlation_is_between_edges_and_senses(text: Any) -> None:
    more = [9, 3, 9, 3, 3, 3, 5, 5, 5]
    assert ambiguity_of_k(model_of(more), text) == pytest.approx(1)
    assert ambiguity_of_k(model_of([12 - k for k in more]), text) == pytest.approx(-1)
    assert ambiguity_of_k(model_of(None), text) is None


def test_points_are_gained_seed_by_seed() -> None:
    ours = [{"accuracy": 0.75, "untrained": 0.5}, {"accuracy": 0.5, "untrained": 0.5}]
    peer = [{"accuracy": 0.5}, {"accuracy": 0.75}]
    assert points_gained(ours, peer) == [25.0, -25.0]
    assert percent(ours, "untrained") == [50.0, 50.0]
