from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core import SOSM, SOSMConfig
from state_core.errors import CausalityError, DataError, InputError
from state_core.training.evaluate import evaluate, position_edges, recall_mask, score_windows


@pytest.fixture
def model() -> SOSM:
    config = SOSMConfig.preset("baseline", vocab_size=50).override(
        {
            "d_model": 16,
            "embed_rank": 8,
            "layers": ["attention"],
            "mlp_hidden": 8,
            "attention.n_heads": 2,
            "train.seq_len": 40,
            "train.batch_size": 3,
        }
    )
    return SOSM(config)


def tokens(n: int = 500) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50, n)


@given(
    length=st.integers(2, 40),
    vocabulary=st.integers(1, 6),
    window=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_recall_tokens_are_those_of_the_definition(
    length: int, vocabulary: int, window: int, seed: int
) -> None:
    ids = torch.randint(vocabulary, (3, length), generator=torch.Generator().manual_seed(seed))
    expected = [
        [
            any(x[j] == x[t] and x[j + 1] == x[t + 1] for j in range(max(0, t - window)))
            for t in range(length - 1)
        ]
        for x in ids.tolist()
    ]
    assert recall_mask(ids, window).tolist() == expected


def test_scores_are_sums_of_the_models_own_nll(model: SOSM) -> None:
    row = tokens()
    result = evaluate(model, row, recall_window=2)
    ids = torch.from_numpy(row[:480].reshape(12, 40))
    nll = model.eval()(ids, labels=ids).token_nll.detach().double()
    recall = recall_mask(ids, 2)
    assert result.windows == 12
    assert result.overall.tokens == 12 * 39
    assert result.overall.nll == pytest.approx(float(nll.sum()), rel=1e-6)
    assert result.recall.tokens == int(recall.sum()) > 0
    assert result.recall.nll == pytest.approx(float(nll[recall].sum()), rel=1e-6)
    assert result.other.tokens + result.recall.tokens == result.overall.tokens
    assert [s.name for s in result.by_position] == [
        "context 1–15",
        "context 16–31",
        "context 32–39",
    ]
    assert result.by_position[1].tokens == 12 * 16
    assert result.by_position[1].nll == pytest.approx(float(nll[:, 15:31].sum()), rel=1e-6)
    assert result.overall.perplexity == pytest.approx(math.exp(result.overall.loss))


def test_batches_can_be_limited_and_do_not_matter(model: SOSM) -> None:
    assert evaluate(model, tokens(), max_batches=2).windows == 6
    one, seven = (evaluate(model, tokens(), batch_size=b).overall.nll for b in (1, 7))
    assert one == pytest.approx(seven, rel=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = SOSM(
        SOSMConfig.preset("default", vocab_size=50).override(
            {
                "d_model": 16,
                "embed_rank": 8,
                "layers": ["graph_attention"],
                "mlp_hidden": 0,
                "attention.n_heads": 2,
            }
        )
    ).train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    score_windows(model, tokens(), seq_len=30, batch_size=2, recall_window=8)
    assert model.training
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


class Leaky(torch.nn.Module):
    """A mixer that shows every token the next one."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, view: object, state: object) -> tuple[torch.Tensor, object]:
        return x.roll(-1, dims=1), state


def test_a_model_that_leaks_gets_no_perplexity(model: SOSM) -> None:
    model.blocks[0].mixer = Leaky(model.config, 0)
    with pytest.raises(CausalityError, match=r"no perplexity is given(.|\n)*FAILED"):
        evaluate(model, tokens())


def test_too_little_text_is_an_error(model: SOSM) -> None:
    with pytest.raises(DataError, match="fewer than one window"):
        evaluate(model, tokens(39))
    with pytest.raises(InputError, match="at least 2"):
        evaluate(model, tokens(39), seq_len=1)


def test_no_recall_tokens_give_no_number(model: SOSM) -> None:
    result = evaluate(model, tokens(), recall_window=1000)
    assert result.recall.tokens == 0
    assert math.isnan(result.recall.loss)
    recall = result.to_dict()["scores"][1]
    assert recall == {"name": "recall", "tokens": 0, "loss": None, "perplexity": None}


@pytest.mark.parametrize("seq_len", [2, 15, 16, 17, 512])
def test_buckets_begin_inside_the_window(seq_len: int) -> None:
    edges = position_edges(seq_len)
    assert edges == sorted(set(edges))
    assert edges[0] == 1
    assert edges[-1] < seq_len
