"""Where the finished prefix is searched: at places of the text, wherever it is cut."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core import SOSM
from state_core.graph.prefix import borders
from tests.invariants.variants import VARIANTS, text


@given(first=st.integers(0, 5000), length=st.integers(1, 3000), chunk=st.integers(1, 70))
def test_a_part_of_a_text_has_the_borders_of_the_whole(first: int, length: int, chunk: int):
    whole = borders(0, first + length, chunk)
    assert borders(first, length, chunk) == [b for b in whole if b >= first]
    assert all(b > 0 and b % chunk == 0 for b in whole)


@given(chunk=st.integers(1, 200))
def test_each_doubling_adds_as_many(chunk: int):
    assert borders(0, 32 * chunk + 1, chunk) == list(range(chunk, 32 * chunk + 1, chunk))
    for octave in (32, 64, 1024):
        found = borders(octave * chunk, octave * chunk, chunk)
        assert len(found) == 16
        assert found[0] == octave * chunk


def test_bridges_and_landmarks_of_a_long_text_are_those_of_its_parts():
    config = VARIANTS["all of the graph"].override({"graph.chunk": 2, "graph.landmarks": 24})
    torch.manual_seed(0)
    model, ids = SOSM(config).eval(), text(1, 150, words=17)
    whole, cache = model(ids, return_graph=True).graph, model.new_cache()
    for part in ids.split([67, 1, 30, 52], dim=1):
        graph = model(part, cache=cache, return_graph=True).graph
        for i in graph.positions[0].tolist():
            assert torch.equal(graph.rows(0, i).neighbors, whole.rows(0, i).neighbors)
            assert torch.equal(graph.rows(0, i).kinds, whole.rows(0, i).kinds)
