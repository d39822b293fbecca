"""What the page says of an edge is what the graph says of it."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM, EdgeKind, SOSMConfig
from state_core.analysis.explorer import (
    Reader,
    expectations,
    explorer,
    graph_data,
    most_telling,
)
from state_core.errors import InputError
from state_core.output import SOSMOutput
from tests.analysis.conftest import spell
from tests.invariants.variants import build, text


def data_of(model: SOSM, out: SOSMOutput, ids: torch.Tensor, b: int) -> dict:
    spelled = spell(ids[b].tolist())
    return graph_data(out.graph, b, spelled, model.config.state.layout, out.votes)


@pytest.mark.parametrize("b", [0, 1])
def test_every_edge_is_there_with_its_kind_weight_rank_and_blocks(model, out, ids, b):
    data = data_of(model, out, ids, b)
    names = [block["name"] for block in data["blocks"]]
    assert names == ["I", "R2", "K"]
    for i, row in enumerate(data["rows"]):
        assert [edge[0] for edge in row] == out.graph.rows(b, i).neighbors.tolist()
        shares = out.votes.log_share[b, i].exp().tolist()
        assert 1 - shares[0] == pytest.approx(sum(edge[5] or 0 for edge in row), abs=2e-3)
        for n, (j, kind, weight, rank, gate, vote, *parts) in enumerate(row):
            assert gate is None
            assert vote == (None if j == i else pytest.approx(shares[1 + n], abs=6e-5))
            said = out.graph.explain(b, i, j)
            assert kind == said.kind
            assert weight == pytest.approx(said.weight, abs=6e-4)
            assert parts == pytest.approx([said.contributions[n] for n in names], abs=6e-4)
            assert sum(parts) == pytest.approx(weight, abs=3e-4)
            if said.kind is EdgeKind.SEMANTIC:
                assert rank == said.rank
            if said.kind is EdgeKind.SUCCESSOR:
                assert rank == out.graph.explain(b, i, said.via).rank


def test_bars_have_room_for_the_longest(model, out, ids):
    data = data_of(model, out, ids, 0)
    edges = [edge[6:] for row in data["rows"] for edge in row]
    assert data["extent"]["positive"] >= max(sum(x for x in e if x > 0) for e in edges) - 2e-3
    assert data["extent"]["negative"] >= max(sum(-x for x in e if x < 0) for e in edges) - 2e-3


def test_expectations(out, ids):
    row = ids[1].tolist()
    expected = expectations(out, 1, row, spell)
    log_p = out.logits[1].log_softmax(-1)
    assert [e["word"] for e in expected] == spell(log_p.argmax(-1).tolist())
    assert [e["actual"] for e in expected] == [*spell(row[1:]), None]
    assert expected[5]["p_actual"] == pytest.approx(float(log_p[5, row[6]].exp()), abs=1e-4)
    for i, e in enumerate(expected):
        said = [s for s in out.explain_prediction(1, i).sources if s.share >= 0.01][:4]
        assert [(j, kind) for _, j, kind in e["sources"]] == [(s.target, s.kind) for s in said]
        assert [share for share, _, _ in e["sources"]] == pytest.approx(
            [s.share for s in said], abs=6e-4
        )


def test_a_model_without_a_pointer_names_no_sources(model, ids):
    plain = SOSM(model.config.override({"pointer.enabled": False})).eval()
    out = plain(ids, return_graph=True)
    assert {len(e["sources"]) for e in expectations(out, 0, ids[0].tolist(), spell)} == {0}


def test_gates_of_semantic_edges():
    model, ids = build("temporal gate"), text(2, 40)
    out = model(ids, return_graph=True)
    data = data_of(model, out, ids, 1)
    gates = [(i, edge[0], edge[4]) for i, row in enumerate(data["rows"]) for edge in row]
    for i, j, gate in gates:
        said = out.graph.explain(1, i, j).gate
        assert gate == (None if said is None else pytest.approx(said, abs=6e-4))
    assert any(gate is not None for _, _, gate in gates)


class Spelling:
    """A tokenizer whose words are one letter each."""

    vocab_size = 64

    def encode(self, text: str) -> list[int]:
        return [ord(c) % 64 for c in text]

    def decode(self, ids):
        return "".join(self.pieces(ids))

    def pieces(self, ids):
        return [chr(64 + i % 64) for i in ids]


def test_a_reader_reads(model):
    reader = Reader("ours", model, Spelling())
    ids = reader.ids("to be or not to be")
    out, data = reader.read(ids)
    assert data["name"] == "ours"
    assert len(data["tokens"]) == len(data["rows"]) == len(data["next"]) == len(ids)
    assert sum(map(len, data["rows"])) == len(out.graph.weight)
    with pytest.raises(InputError, match="empty"):
        reader.ids("")
    with pytest.raises(InputError, match=r"2,001 tokens, 2,000 can be shown"):
        reader.ids("a" * 2001)


def test_a_reader_without_a_graph(model):
    bare = SOSMConfig.preset("mamba2", vocab_size=64).override({"d_model": 32, "mlp_hidden": 32})
    with pytest.raises(InputError, match="the model bare builds no graph"):
        Reader("bare", SOSM(bare), Spelling()).read([1, 2])


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
    assert f'data-chosen="{chosen}"' in explorer("g", data, chosen=chosen)
    assert "data-chosen" not in explorer("g", data)
