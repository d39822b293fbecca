"""I1, I2 and I7 across segments: what is remembered is of the past, however it is read."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from state_core import SOSM, SOSMConfig
from state_core.memory.segment_reader import SegmentReader
from tests.invariants.variants import SMALL, build, text

REMEMBERING = {"memory.enabled": True, "memory.k": 3, "train.consecutive": True}
OTHERS = {
    "hnsw": {"memory.kind": "hnsw"},
    "no pointer": {"pointer.enabled": False},
    "differential": {"attention.differential": True},
    "gated": {"graph.temporal_gate": True, "graph.tau_high": 0.97},
}


def remembering(name: str) -> SOSM:
    config = SOSMConfig.preset("default").override(
        {**SMALL, "layers": ["mamba", "graph_attention"]}
    )
    torch.manual_seed(0)
    return SOSM(config.override({**REMEMBERING, **OTHERS.get(name, {})})).eval()


def read(model: SOSM, ids: Tensor, segment: int = 12) -> Tensor:
    """The logits of a text read in segments: those of each, but for its last token's."""
    memory, logits = model.new_memory(len(ids)), []
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, segment - 1):
            part = ids[:, start : start + segment]
            out = model(part, memory=memory)
            logits.append(out.logits[:, :-1])
            memory.append(part, out.keepsake)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", ["plain", *OTHERS])
@given(changed=st.integers(1, 58), seed=st.integers(0, 100))
def test_a_changed_token_changes_nothing_before_it(name: str, changed: int, seed: int) -> None:
    model, ids = remembering(name), text(1, 60, seed)
    other = ids.clone()
    other[:, changed:] = text(1, 60 - changed, seed + 1) + 1
    before, after = read(model, ids), read(model, other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, changed:], after[:, changed:])


@given(cuts=st.sets(st.integers(1, 79), max_size=8), segment=st.integers(2, 33))
def test_however_a_text_is_cut_the_reader_says_the_same(cuts: set[int], segment: int) -> None:
    model, ids = build("memory"), text(1, 80)
    whole = SegmentReader(model, model.new_memory(), segment)
    pieces = SegmentReader(model, model.new_memory(), segment)
    with torch.no_grad():
        expected = whole.read(ids).last_logits
        for a, b in itertools.pairwise([0, *sorted(cuts), 80]):
            out = pieces.read(ids[:, a:b])
    torch.testing.assert_close(out.last_logits, expected, rtol=1e-4, atol=1e-4)
    assert pieces.held <= segment
    assert torch.equal(
        pieces.memory.rows[0].kept["words"].values, ids[0, 1 : 1 + len(pieces.memory)]
    )


def test_generating_equals_reading_what_was_generated() -> None:
    model = build("memory")
    model.config = model.config.override({"train.seq_len": 16})
    prompts = [text(1, n, seed=n)[0].tolist() for n in (3, 37, 16)]
    memory = model.new_memory(3)
    rows = model.generate(prompts, max_new_tokens=24, temperature=0, memory=memory)
    for b, row in enumerate(rows):
        alone = model.generate([prompts[b]], 24, temperature=0, memory=model.new_memory())[0]
        assert torch.equal(row, alone)
        reader = SegmentReader(model, model.new_memory(), 16)
        with torch.no_grad():
            assert int(reader.read(row[None, :-1]).last_logits.argmax()) == int(row[-1])
    assert len(memory.row(1)) > len(memory.row(0)) > 0
