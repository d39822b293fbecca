"""The TEMPORAL gate keeps what its formula keeps, and learns from what it keeps and refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from state_core import SOSM, GraphStream, SOSMConfig, State, build_graph
from state_core.config import GraphConfig
from state_core.errors import ConfigError, InputError
from state_core.graph import EdgeKind, GraphBuilder, TokenGraph
from tests.graph.test_graph_builder import LAYOUT, random_state
from tests.invariants.variants import SMALL, build, text

GATED = GraphConfig(window=2, sinks=1, k_base=4, adaptive_k=False, temporal_gate=True)


def timed_state(length: int, batch: int = 1, seed: int = 0) -> State:
    state = random_state(length, batch, seed, words=12)
    generator = torch.Generator().manual_seed(seed)
    return State(state.semantic, torch.randn(batch, length, 32, generator=generator), LAYOUT)


def english(length: int) -> torch.Tensor:
    """Ids of the words of the licence, which is English of a kind."""
    words = re.findall(r"\w+|[^\w\s]", (Path(__file__).parents[2] / "LICENSE").read_text().lower())
    number = {word: n for n, word in enumerate(dict.fromkeys(words))}
    return torch.tensor([[number[word] for word in words[:length]]])


def semantic_edges(graph: TokenGraph) -> set[tuple[int, int]]:
    chosen = graph.kind == EdgeKind.SEMANTIC
    return {(int(i), int(j)) for i, j in graph.edge_index[:, chosen].T}


def test_edges_are_kept_by_the_formula() -> None:
    state = timed_state(60)
    builder = GraphBuilder(GATED, LAYOUT, 32).eval()
    assert builder.gate is not None
    graph = builder(state)
    free = build_graph(state, GATED.model_copy(update={"temporal_gate": False}))
    t, weight, bias = state.temporal[0].double(), builder.gate.weight.double(), builder.gate.bias
    gate = (t @ weight @ t.T + bias).sigmoid()
    expected = set()
    for i, j in semantic_edges(free):
        similarity = free.explain(0, i, j).weight
        due = similarity > GATED.tau_mu and gate[i, j] > GATED.tau_temp
        if due or similarity > GATED.tau_high:
            expected.add((i, j))
            assert graph.explain(0, i, j).gate == pytest.approx(float(gate[i, j]), abs=1e-5)
    assert semantic_edges(graph) == expected
    assert graph.refused is not None
    assert semantic_edges(graph.refused) == semantic_edges(free) - expected
    assert 0 < len(expected) < len(semantic_edges(free))


@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_model_keeps_some_edges_of_english_and_refuses_some(seed: int) -> None:
    torch.manual_seed(seed)
    config = SOSMConfig.preset("default", vocab_size=1000).override({"graph.temporal_gate": True})
    with torch.no_grad():
        graph = SOSM(config).eval()(english(512), return_graph=True).graph
    assert graph is not None
    assert graph.refused is not None
    kept, refused = (graph.kind == EdgeKind.SEMANTIC).sum(), len(graph.refused.kind)
    assert 0.02 < refused / (kept + refused) < 0.9


@pytest.mark.parametrize(
    ("taus", "all_kept"),
    [({"tau_high": -2.0, "tau_mu": -2.0}, True), ({"tau_high": 2.0, "tau_temp": 1.0}, False)],
)
def test_thresholds_that_let_everything_or_nothing_pass(
    taus: dict[str, float], all_kept: bool
) -> None:
    state = timed_state(50)
    graph = build_graph(state, GATED.model_copy(update=taus))
    free = build_graph(state, GATED.model_copy(update={"temporal_gate": False}))
    assert semantic_edges(graph) == (semantic_edges(free) if all_kept else set())
    assert bool((graph.counts >= 1).all())


def test_the_gate_is_explained_and_survives_a_subgraph() -> None:
    graph = build_graph(timed_state(50), GATED)
    assert len(graph.gate) == len(graph.kind)
    judged = graph.kind == EdgeKind.SEMANTIC
    assert bool((graph.gate[~judged] == 1).all())
    part = graph.subgraph(kinds=[EdgeKind.SEMANTIC])
    torch.testing.assert_close(part.gate, graph.gate[judged])
    i, j = min(semantic_edges(graph))
    edge = part.explain(0, i, j)
    assert edge.gate is not None
    assert f"gate {edge.gate:.2f}" in str(edge)
    assert graph.explain(0, i, i).gate is None


def gate_gradient(**taus: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of W and b in a model with these thresholds, and no pointer."""
    values = {**SMALL, "graph.temporal_gate": True, "pointer.enabled": False}
    config = SOSMConfig.preset("default").override(
        {**values, "layers": ["graph_attention"], **{f"graph.{k}": v for k, v in taus.items()}}
    )
    torch.manual_seed(0)
    model, ids = SOSM(config), text(2, 40)
    model(ids, labels=ids).loss.backward()
    gate = model.graph_builder.gate
    return gate.weight.grad, gate.bias.grad


def test_both_kept_and_refused_edges_teach_the_gate() -> None:
    kept, _ = gate_gradient(tau_mu=-2.0, tau_temp=0.0)
    refused, _ = gate_gradient(tau_high=2.0, tau_temp=1.0)
    assert kept.abs().max() > 0
    assert refused.abs().max() > 0


def test_a_refused_edge_has_the_gradient_of_soft_attention_and_no_part_in_the_output() -> None:
    from state_core import ops
    from state_core.layers.straight_through import teach_refused

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 30, 8) for _ in range(3))
    graph = build_graph(timed_state(30), GATED.model_copy(update={"tau_high": 1.5}))
    assert graph.refused is not None
    gates = graph.refused.log_gates.detach().requires_grad_()
    refused = graph.refused.subgraph()
    refused = type(refused)(**{**vars(refused), "log_gates": gates})
    hard, lse = ops.graph_attention(q, k, v, graph.neighbors, graph.counts, return_lse=True)
    bias = torch.zeros(1, 2, *gates.shape[1:])
    y = teach_refused(hard, lse, q, k, v, refused, bias)
    assert torch.equal(y, hard)
    target = torch.randn_like(y)
    (given,) = torch.autograd.grad((y * target).sum(), gates)

    soft, soft_lse = ops.graph_attention(
        q, k, v, refused.neighbors, refused.counts, bias=bias + gates[:, None], return_lse=True
    )
    share = torch.sigmoid(soft_lse - lse)[..., None]
    mixed = share * soft + (1 - share) * hard
    (expected,) = torch.autograd.grad((mixed * target).sum(), gates)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-6)
    assert given.abs().max() > 0


def test_a_step_of_training_moves_the_gate() -> None:
    model, ids = build("temporal gate"), text(2, 60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.graph_builder.gate.weight.clone()
    model.train()(ids, labels=ids).loss.backward()
    optimizer.step()
    assert not torch.equal(before, model.graph_builder.gate.weight)


def test_a_gated_stream_gives_the_rows_of_the_whole() -> None:
    state, builder = timed_state(60), GraphBuilder(GATED, LAYOUT, 32).eval()
    whole, stream = builder(state), GraphStream(1)
    pieces = [
        builder(State(state.semantic[:, a:b], state.temporal[:, a:b], LAYOUT), stream)
        for a, b in ((0, 1), (1, 33), (33, 34), (34, 60))
    ]
    assert torch.equal(torch.cat([p.neighbors for p in pieces], 1), whole.neighbors)
    assert torch.equal(torch.cat([p.refused.neighbors for p in pieces], 1), whole.refused.neighbors)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="tau_mu ≤ tau_high"):
        SOSMConfig.preset("default").override({"graph.temporal_gate": True, "graph.tau_high": 0.1})
    with pytest.raises(ConfigError, match=r"graph\.semantic is off"):
        SOSMConfig.preset("default").override(
            {"graph.temporal_gate": True, "graph.semantic": False}
        )
    with pytest.raises(ConfigError, match="width of the temporal state"):
        GraphBuilder(GATED, LAYOUT)
    state = timed_state(6)
    state.temporal[0, 2, 5] = torch.nan
    with pytest.raises(InputError, match=r"temporal state .*\[0, 2, 5\]"):
        build_graph(state, GATED)
