"""What the page says of an edge is what the graph says of it."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, EdgeKind
from state_core.analysis.explorer import expectations, explorer, graph_data, most_telling
from state_core.output import SOSMOutput
from tests.analysis.conftest import spell


def data_of(model: SOSM, out: SOSMOutput, ids: torch.Tensor, b: int) -> dict:
    return graph_data(out.graph, b, spell(ids[b].tolist()), model.config.state.layout)


@pytest.mark.parametrize("b", [0, 1])
def test_every_edge_is_there_with_its_kind_weight_rank_and_blocks(model, out, ids, b):
    data = data_of(model, out, ids, b)
    names = [block["name"] for block in data["blocks"]]
    assert names == ["I", "R2", "K"]
    for i, row in enumerate(data["rows"]):
        assert [edge[0] for edge in row] == out.graph.rows(b, i).neighbors.tolist()
        for j, kind, weight, rank, *parts in row:
            said = out.graph.explain(b, i, j)
            assert kind == said.kind
            assert weight == pytest.approx(said.weight, abs=6e-4)
            assert parts == pytest.approx([said.contributions[n] for n in names], abs=6e-4)
            assert sum(parts) == pytest.approx(weight, abs=3e-3)
            if said.kind is EdgeKind.SEMANTIC:
                assert rank == said.rank
            if said.kind is EdgeKind.SUCCESSOR:
                assert rank == out.graph.explain(b, i, said.via).rank


def test_bars_have_room_for_the_longest(model, out, ids):
    data = data_of(model, out, ids, 0)
    edges = [edge[4:] for row in data["rows"] for edge in row]
    assert data["extent"]["positive"] >= max(sum(x for x in e if x > 0) for e in edges) - 2e-3
    assert data["extent"]["negative"] >= max(sum(-x for x in e if x < 0) for e in edges) - 2e-3


def test_expectations(out, ids):
    row = ids[1].tolist()
    expected = expectations(out, 1, row, spell)
    log_p = out.logits[1].log_softmax(-1)
    assert [e["word"] for e in expected] == spell(log_p.argmax(-1).tolist())
    assert [e["actual"] for e in expected] == [*spell(row[1:]), None]
    assert expected[5]["p_actual"] == pytest.approx(float(log_p[5, row[6]].exp()), abs=1e-4)
    for e in expected:
        assert sum(share for share, _, _ in e["sources"]) <= 1.01


def test_a_model_without_a_pointer_names_no_sources(model, ids):
    plain = SOSM(model.config.override({"pointer.enabled": False})).eval()
    out = plain(ids, return_graph=True)
    assert {len(e["sources"]) for e in expectations(out, 0, ids[0].tolist(), spell)} == {0}


def test_one_token(model):
    one = torch.tensor([[3]])
    out = model(one, return_graph=True)
    data = data_of(model, out, one, 0)
    assert [edge[0] for edge in data["rows"][0]] == [0]
    assert data["k"] == 0
    assert most_telling(data) is None


def test_the_element_carries_the_choice(model, out, ids):
    data = data_of(model, out, ids, 0)
    chosen = most_telling(data)
    assert data["rows"][chosen]
    assert f'data-chosen="{chosen}"' in explorer("g", data, chosen)
    assert "data-chosen" not in explorer("g", data)
