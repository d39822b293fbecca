"""I1: changing token t changes nothing at positions before t."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core import SOSMConfig, audit_causality
from state_core.errors import ConfigError
from state_core.graph import GraphStream
from tests.invariants.variants import VARIANTS, build


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_passes_the_audit(name: str) -> None:
    report = audit_causality(build(name), length=41)
    assert report.passed, str(report)


@given(seed=st.integers(0, 10_000), length=st.integers(2, 70))
def test_for_any_weights_text_and_length(seed: int, length: int) -> None:
    report = audit_causality(build("mutual", seed), length=length, seed=seed)
    assert report.passed, str(report)


def test_a_language_model_refuses_a_bidirectional_graph() -> None:
    with pytest.raises(ConfigError, match=r"graph\.causal"):
        SOSMConfig.preset("default").override({"graph.causal": False})


def test_a_bidirectional_graph_cannot_be_streamed() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        GraphStream(1, causal=False)
