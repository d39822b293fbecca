"""I6: contributions add up to the edge's weight, the shares of a prediction to one, and components
to the output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core import SOSM, SOSMConfig
from state_core.analysis.depass import decompose
from state_core.analysis.frozen import freeze
from state_core.config import PRESETS
from tests.invariants.variants import VARIANTS, build, text

WITH_GRAPH = [name for name, config in VARIANTS.items() if config.graph.enabled]
WITH_EXPERTS = [name for name, config in VARIANTS.items() if config.moe.routing != "none"]
WITH_ATTENTION = [
    name for name, config in VARIANTS.items() if any("attention" in m for m in config.layers)
]
WITH_POINTER = [name for name in WITH_GRAPH if VARIANTS[name].pointer.enabled]


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_blocks_add_up_to_the_weight(name: str) -> None:
    with torch.no_grad():
        graph = build(name)(text(2, 40), return_graph=True).graph
    assert graph is not None
    assert graph.contributions.shape == (len(graph.weight), 16)
    torch.testing.assert_close(graph.contributions.sum(-1), graph.weight, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", WITH_POINTER)
def test_sources_of_a_prediction_add_up_to_one(name: str) -> None:
    ids = text(2, 40)
    with torch.no_grad():
        out = build(name)(ids, return_graph=True)
    for i in (0, 1, 17, 39):
        for token in (None, int(ids[1, i])):
            explained = out.explain_prediction(1, i, token)
            assert sum(s.share for s in explained.sources) == pytest.approx(1.0, abs=1e-6)
            for source in explained.sources:
                if source.target is not None:
                    assert source.target < i
                    assert ids[1, source.target + 1] == explained.token


@given(seed=st.integers(0, 1000), i=st.integers(0, 30))
def test_explain_agrees_with_the_rows(seed: int, i: int) -> None:
    with torch.no_grad():
        graph = build("as recommended", seed)(text(1, 31, seed), return_graph=True).graph
    assert graph is not None
    row = graph.rows(0, i)
    for j, weight in zip(row.neighbors.tolist(), row.weights.tolist(), strict=True):
        edge = graph.explain(0, i, j)
        assert edge.weight == pytest.approx(weight)
        assert sum(edge.contributions.values()) == pytest.approx(weight, abs=2e-6)
        assert str(j) in str(edge)


@pytest.mark.parametrize("name", WITH_POINTER)
def test_the_mixture_is_a_distribution(name: str) -> None:
    ids = text(2, 30)
    with torch.no_grad():
        out = build(name)(ids, labels=ids)
    total = out.logits.double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5)
    assert out.token_nll is not None
    picked = -out.logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(out.token_nll, picked, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def assert_components_add_up(model: SOSM, ids: torch.Tensor, by: str, most: float) -> None:
    for mixer in (block.mixer for block in model.blocks):
        ours = type(mixer).__module__.startswith("state_core.")
        if not ours and freeze.dispatch(type(mixer)) is freeze.dispatch(object):
            pytest.skip(
                f"{type(mixer).__name__} has no frozen form (@freeze.register gives it one)"
            )
    parts = decompose(model, ids, by, position=ids.shape[1] - 3, text=len(ids) - 1)
    hidden = model(ids).hidden[-1, -3]
    logits = parts.vocabulary_logits(hidden)
    assert len(parts.names) > 1
    missed = parts.vocabulary_logits(parts.components).sum(0) - logits
    assert float(missed.norm() / logits.norm()) < most
    assert parts.error < most


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("by", ["token", "layer", "head"])
def test_components_add_up_to_the_logits(name: str, by: str) -> None:
    assert_components_add_up(build(name), text(2, 40), by, 1e-5)
    assert_components_add_up(build(name, dtype=torch.float64), text(2, 40), by, 1e-10)


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_blocks_add_up_to_the_logits(name: str) -> None:
    assert_components_add_up(build(name, dtype=torch.float64), text(2, 40), "block", 1e-10)


@pytest.mark.parametrize(
    ("name", "by"),
    [(name, "edge_kind") for name in WITH_ATTENTION] + [(name, "expert") for name in WITH_EXPERTS],
)
def test_edges_and_experts_add_up_to_the_logits(name: str, by: str) -> None:
    assert_components_add_up(build(name, dtype=torch.float64), text(2, 40), by, 1e-10)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_add_up_on_every_preset(preset: str, dtype: torch.dtype) -> None:
    model = SOSM(SOSMConfig.preset(preset, vocab_size=64)).to(dtype).eval()
    assert_components_add_up(model, text(1, 30), "token", 1e-5 if dtype == torch.float32 else 1e-10)
