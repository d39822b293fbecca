"""Vectors belong to their texts, whatever they are read with, and random ones to their words."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSMConfig, SOSMEncoder
from state_core.analysis import readings as module
from state_core.analysis.readings import random_vectors, readings, text_vectors
from state_core.encoder import encoder_config
from tests.invariants.variants import SMALL, VARIANTS, build, text


@pytest.mark.parametrize("name", ["as recommended", "phase6", "buckets"])
def test_the_graph_reads_a_mean_of_states(name: str) -> None:
    model, ids = build(name), text(2, 30)
    found = readings(model, ids)
    assert {k: v.shape[:2] for k, v in found.items()} == dict.fromkeys(found, (2, 30))
    out = model(ids, return_graph=True)
    row = out.graph.rows(1, 20)
    weights = row.weights.clamp(min=0) * (row.neighbors != 20)
    want = (weights @ found["state"][1, row.neighbors.long()]) / weights.sum()
    torch.testing.assert_close(found["graph"][1, 20], want)


def test_position_is_no_part_of_the_state() -> None:
    """The same words behind others: blocks of the token itself are the same."""
    model, ids = build("as recommended"), text(1, 30)
    sources = VARIANTS["as recommended"].state.layout.values()
    width = 4 * sum(s in ("token", "local", "long") for s in sources)
    found = readings(model, torch.cat([ids, ids], dim=1))["state"]
    assert found.shape[-1] == width < 64
    torch.testing.assert_close(found[0, 40, :8], found[0, 10, :8])


def test_without_a_graph_there_is_the_hidden_state_alone() -> None:
    model = build("mixer attention, no graph")
    assert set(readings(model, text(1, 12))) == {"hidden"}


@pytest.mark.parametrize("encoder", [False, True])
def test_a_text_is_read_the_same_in_any_company(
    encoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("as recommended")
    if encoder:
        torch.manual_seed(0)
        config = encoder_config(SOSMConfig.preset("default").override(SMALL))
        model = SOSMEncoder(config).eval()
    monkeypatch.setattr(module, "BATCH_TOKENS", 40)
    rows = [row.tolist()[: 9 + 7 * (n % 3)] for n, row in enumerate(text(8, 23))]
    told: list[int] = []
    found = text_vectors(model, rows, told.append)
    assert sum(told) == 8 < 8 + len(told)
    for n, row in enumerate(rows):
        alone = readings(model, torch.tensor([row]))
        for kind, vectors in found.items():
            torch.testing.assert_close(vectors[n], alone[kind][0].mean(0))


def test_random_vectors_know_words_and_not_their_order() -> None:
    a, b, c = random_vectors([[1, 2, 3], [3, 1, 2], [1, 2, 4]])
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, c)
