"""What a model remembers: found by similarity, traceable, bounded, and saved whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from state_core import SOSM
from state_core.errors import CheckpointError, ConfigError, InputError
from state_core.graph.graph_cache import fingerprint
from state_core.memory.text_memory import TextMemory
from tests.invariants.variants import build, text

SEGMENT = 16


def read(model: SOSM, ids: Tensor, memory: TextMemory, segment: int = SEGMENT) -> list[Tensor]:
    """Read a text segment by segment; the logits of each."""
    logits = []
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, segment - 1):
            part = ids[:, start : start + segment]
            out = model(part, memory=memory)
            logits.append(out.logits)
            memory.append(part, out.keepsake)
    return logits


@pytest.fixture
def model() -> SOSM:
    return build("memory")


def test_an_item_knows_its_place_its_text_and_its_blocks(model: SOSM) -> None:
    ids, memory = text(2, 61), model.new_memory(2)
    read(model, ids, memory)
    with torch.no_grad():
        out = model(ids[:, -SEGMENT:], memory=memory, return_graph=True)
    found = out.explain_recall(memory, 1, 5)
    assert len(found) == model.config.memory.k
    for recalled in found:
        item = recalled.item
        assert item.token == ids[1, item.position]
        assert item.word == ids[1, item.position + 1]
        assert item.token in memory.passage(1, item.position)
        assert sum(recalled.contributions.values()) == pytest.approx(recalled.similarity, abs=1e-5)
        assert f"position {item.position}" in str(recalled)
    assert [r.similarity for r in found] == sorted((r.similarity for r in found), reverse=True)


@pytest.mark.parametrize("similarity", ["blockwise", "full", "projection"])
def test_contributions_add_up_for_every_similarity(similarity: str) -> None:
    base = build("memory").config.override({"graph.similarity": similarity})
    model = SOSM(base).eval()
    ids, memory = text(1, 46), model.new_memory()
    read(model, ids, memory)
    with torch.no_grad():
        out = model(ids[:, :SEGMENT], memory=memory, return_graph=True)
    for recalled in out.explain_recall(memory, 0, 9):
        assert sum(recalled.contributions.values()) == pytest.approx(recalled.similarity, abs=1e-5)


def test_what_is_recalled_is_the_most_similar(model: SOSM) -> None:
    ids, memory = text(1, 76), model.new_memory()
    read(model, ids, memory)
    with torch.no_grad():
        out = model(ids[:, :SEGMENT], memory=memory, return_graph=True)
    features = memory.rows[0].kept["features"].values
    wanted = (out.graph.features[0] @ features.T).topk(3).values
    torch.testing.assert_close(out.recalled.similarities[0], wanted)


def test_words_are_those_that_followed_and_the_last_token_waits(model: SOSM) -> None:
    ids, memory = text(1, 61), model.new_memory()
    read(model, ids, memory)
    row = memory.rows[0]
    assert len(memory) == 60
    assert torch.equal(row.kept["tokens"].values, ids[0, :-1])
    assert torch.equal(row.kept["words"].values, ids[0, 1:])


def test_it_holds_the_latest_and_forgets_the_rest(model: SOSM) -> None:
    ids, memory = text(1, 91), model.new_memory(capacity=20)
    read(model, ids, memory)
    assert len(memory) == 20
    assert memory.item(0, 89).token == ids[0, 89]
    with pytest.raises(InputError, match="70 to 89"):
        memory.item(0, 69)
    with torch.no_grad():
        assert int(model(ids[:, :SEGMENT], memory=memory).recalled.items.min()) >= 70


def test_texts_do_not_remember_each_other(model: SOSM) -> None:
    ids, both = text(2, 46), model.new_memory(2)
    together = read(model, ids, both)
    for b in range(2):
        alone = read(model, ids[b : b + 1], model.new_memory())
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[b : b + 1], one, rtol=1e-4, atol=1e-5)


def test_clearing_one_text_keeps_the_other(model: SOSM) -> None:
    memory = model.new_memory(2)
    read(model, text(2, 46), memory)
    memory.clear([0])
    assert len(memory.row(0)) == 0
    assert len(memory.row(1)) == 45
    segment = text(2, SEGMENT, seed=3)
    with torch.no_grad():
        out = model(segment, memory=memory)
        torch.testing.assert_close(out.logits[0], model(segment).logits[0])
    assert not out.recalled.known[0].any()
    assert out.recalled.known[1].all()


def test_it_matters_and_reaches_the_gate(model: SOSM) -> None:
    ids, memory = text(1, 46), model.new_memory()
    read(model, ids[:, :31], memory)
    segment = ids[:, 30:]
    without = model(segment, memory=model.new_memory()).logits
    out = model(segment, labels=segment, memory=memory)
    assert not torch.allclose(without, out.logits)
    out.loss.backward()
    trained = {n: p.grad for n, p in model.named_parameters() if "memory" in n}
    assert len(trained) == 3
    assert all(g is not None and g.abs().sum() > 0 for g in trained.values())
    assert not any(v.requires_grad for v in memory.tensors().values())


def test_an_empty_memory_is_as_none(model: SOSM) -> None:
    ids = text(2, SEGMENT)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids, memory=model.new_memory(2)).logits)


def test_a_model_in_float64_remembers_too(model: SOSM) -> None:
    ids = text(1, 46)
    single = read(model, ids, model.new_memory())
    double = read(model.double(), ids, model.new_memory())
    assert {logits.dtype for logits in double} == {torch.float64}
    torch.testing.assert_close(double[-1].float(), single[-1], rtol=1e-3, atol=1e-4)


def test_saved_and_loaded_it_answers_the_same(model: SOSM, tmp_path: Path) -> None:
    ids, memory = text(2, 61), model.new_memory(2, capacity=40)
    read(model, ids, memory)
    path = tmp_path / "memory.safetensors"
    memory.save(path, fingerprint(model))
    again = model.new_memory(2, capacity=40)
    again.load(path, fingerprint(model))
    more = text(2, 61, seed=5)
    for a, b in zip(read(model, more, memory), read(model, more, again), strict=True):
        assert torch.equal(a, b)


def test_another_models_memory_and_a_damaged_one_are_refused(model: SOSM, tmp_path: Path) -> None:
    memory = model.new_memory(2)
    read(model, text(2, 31), memory)
    path = tmp_path / "memory.safetensors"
    memory.save(path, fingerprint(model))
    with pytest.raises(CheckpointError, match="another model"):
        model.new_memory(2).load(path, fingerprint(build("memory", seed=1)))
    with pytest.raises(CheckpointError, match="2 texts, this one of 3"):
        model.new_memory(3).load(path, fingerprint(model))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        model.new_memory(2).load(path, fingerprint(model))


def test_bad_use_is_told(model: SOSM) -> None:
    ids = text(2, SEGMENT)
    with pytest.raises(InputError, match=r"new_memory\(batch_size=2\)"):
        model(ids, memory=model.new_memory(3))
    with pytest.raises(ConfigError, match=r"memory\.enabled"):
        build("as recommended").new_memory()
    with pytest.raises(InputError, match=r"memory\.enabled"):
        build("as recommended")(ids, memory=model.new_memory(2))
    with pytest.raises(InputError, match="keepsake"):
        model.new_memory(2).append(ids, None)
    with pytest.raises(InputError, match="capacity"):
        model.new_memory(2, capacity=0)
    for change in ({"train.consecutive": False}, {"layers": ["mamba"]}):
        with pytest.raises(ConfigError):
            model.config.override(change)
