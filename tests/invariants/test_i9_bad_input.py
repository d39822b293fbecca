"""I9: bad input is a clear error."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, GraphStream, SOSMConfig, State, build_graph
from state_core.errors import BackendError, ConfigError, InputError
from state_core.graph.graph_builder import GraphBuilder
from state_core.ops.backend import REGISTRY
from tests.invariants.variants import build, text

LAYOUT = tuple(SOSMConfig.preset("default").state.layout)


def _state(length: int = 6, batch: int = 1) -> State:
    torch.manual_seed(0)
    return State(torch.randn(batch, length, 16, 4), torch.randn(batch, length, 32), LAYOUT)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), "at least one token"),
        (torch.zeros(0, 3, dtype=torch.int64), "empty"),
        (torch.zeros(5, dtype=torch.int64), r"\[B, T\]"),
        (torch.zeros(1, 5), "int64"),
        (torch.tensor([[1, 53]]), "ids 0 to 52"),
        (torch.tensor([[1, -1]]), "hold -1"),
    ],
)
def test_ids(ids: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("as recommended")(ids)


def test_labels() -> None:
    model, ids = build("as recommended"), text(2, 8)
    with pytest.raises(InputError, match="labels must be"):
        model(ids, labels=ids[:, :4])
    with pytest.raises(InputError, match="at least two"):
        model(ids[:, :1], labels=ids[:, :1])
    with pytest.raises(InputError, match="−100"):
        model(ids, labels=ids + 50)
    assert model(ids, labels=torch.full_like(ids, -100)).loss == 0


def test_one_token_and_k_larger_than_the_past() -> None:
    out = build("as recommended")(text(1, 1), return_graph=True)
    assert out.logits.shape == (1, 1, 53)
    assert out.graph is not None
    assert out.graph.counts.tolist() == [[1]]


def test_a_cache_of_another_batch() -> None:
    model = build("as recommended")
    with pytest.raises(InputError, match="batch_size=3"):
        model(text(3, 4), cache=model.new_cache(batch_size=2))


def test_prompts() -> None:
    model = build("as recommended")
    with pytest.raises(InputError, match="at least one token"):
        model.generate([[1, 2], []])
    with pytest.raises(InputError, match="temperature"):
        model.generate(text(1, 3), temperature=-1)
    with pytest.raises(InputError, match="top_p"):
        model.generate(text(1, 3), top_p=0.0)
    with pytest.raises(InputError, match="ids 0 to 52"):
        model.generate([[1, 99]])


def test_nan_in_a_state() -> None:
    state = _state()
    state.semantic[0, 3, 2, 1] = torch.nan
    with pytest.raises(InputError, match=r"\[0, 3, 2, 1\]"):
        build_graph(state, SOSMConfig.preset("default").graph)


def test_states_of_the_wrong_width_or_empty() -> None:
    graph = SOSMConfig.preset("default").graph
    with pytest.raises(InputError, match=r"\[B, T, 16, 4\]"):
        State(torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 32), LAYOUT)
    with pytest.raises(InputError, match="no tokens"):
        build_graph(_state(length=0), graph)
    renamed = State(_state().semantic, _state().temporal, tuple(reversed(LAYOUT)))
    with pytest.raises(InputError, match="blocks"):
        GraphBuilder(graph, LAYOUT)(renamed, GraphStream(1))


def test_edges_and_tokens_that_are_not_there() -> None:
    graph = build_graph(_state(40), SOSMConfig.preset("default").graph)
    with pytest.raises(InputError, match="does not look at token 39"):
        graph.explain(0, 3, 39)
    with pytest.raises(InputError, match="rows 0 to 39"):
        graph.rows(0, 40)
    with pytest.raises(InputError, match="1 texts"):
        graph.rows(1, 0)
    with pytest.raises(InputError, match="keep must be bool"):
        graph.subgraph(keep=torch.ones(3, dtype=torch.bool))


def test_unknown_configuration_keys_name_the_nearest() -> None:
    config = SOSMConfig.preset("default")
    with pytest.raises(ConfigError, match="k_max"):
        config.override({"graph.kmax": 3})
    with pytest.raises(ConfigError, match="graph_attention"):
        config.override({"layers": ["graph_atention"]})
    with pytest.raises(ConfigError, match="phase6"):
        SOSMConfig.preset("phase")


@pytest.mark.parametrize("op", sorted(REGISTRY))
def test_unknown_and_missing_backends(op: str) -> None:
    with pytest.raises(BackendError, match="naive"):
        REGISTRY[op].choose("naiv", "cpu")
    for name in REGISTRY[op].backends:
        with pytest.raises(BackendError, match=r"not on|not installed"):
            REGISTRY[op].choose(name, "no-such-device")


def test_explaining_a_prediction_without_a_pointer() -> None:
    out = SOSM(build("no pointer").config)(text(1, 5), return_graph=True)
    with pytest.raises(InputError, match=r"pointer\.enabled"):
        out.explain_prediction(0, 2)
