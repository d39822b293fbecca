"""I2: one-shot = chunked = token by token, the graph edge for edge."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from state_core import SOSM
from state_core.output import SOSMOutput
from tests.invariants.variants import VARIANTS, build, text

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def read_in_pieces(model: SOSM, ids: Tensor, sizes: list[int]) -> list[SOSMOutput]:
    cache = model.new_cache(batch_size=ids.shape[0])
    with torch.no_grad():
        return [model(piece, cache=cache, return_graph=True) for piece in ids.split(sizes, dim=1)]


def assert_agree(model: SOSM, ids: Tensor, sizes: list[int]) -> None:
    with torch.no_grad():
        whole = model(ids, return_graph=True)
    pieces = read_in_pieces(model, ids, sizes)
    logits = torch.cat([out.logits for out in pieces], dim=1)
    error = float(((logits - whole.logits).abs().max() / whole.logits.abs().max()).detach())
    assert error < TOLERANCE[logits.dtype]
    if whole.graph is None:
        return
    for part in ("neighbors", "counts"):
        streamed = torch.cat([getattr(out.graph, part) for out in pieces], dim=1)
        assert torch.equal(streamed, getattr(whole.graph, part)), part
    real = whole.graph.neighbors >= 0
    for part in ("log_gates", "degree", "walk"):
        if getattr(whole.graph, part) is not None:
            streamed = torch.cat([getattr(out.graph, part) for out in pieces], dim=1)
            torch.testing.assert_close(streamed, getattr(whole.graph, part), rtol=1e-5, atol=1e-6)
    if whole.graph.coordinates is not None:
        assert torch.equal(pieces[-1].graph.coordinates, whole.graph.coordinates)
        assert torch.equal(pieces[-1].graph.landmarks, whole.graph.landmarks)
    kinds = torch.cat([out.graph.kinds for out in pieces if out.graph is not None], dim=1)
    assert torch.equal(kinds[real], whole.graph.kinds[real])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", VARIANTS)
def test_token_by_token_and_in_chunks(name: str, dtype: torch.dtype) -> None:
    model, ids = build(name, dtype=dtype), text(2, 37)
    assert_agree(model, ids, [1] * 37)
    assert_agree(model, ids, [16, 1, 15, 5])


@given(data=st.data(), seed=st.integers(0, 1000), words=st.integers(1, 17))
def test_any_way_of_cutting(data: st.DataObject, seed: int, words: int) -> None:
    length = data.draw(st.integers(1, 90))
    cuts = data.draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=6))
    edges = [0, *sorted(c for c in cuts if c < length), length]
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    assert_agree(build("mutual", seed), text(1, length, seed, words), sizes)


def test_rows_of_different_lengths_continue_together() -> None:
    model = build("as recommended")
    prompts = [text(1, n, seed=n)[0].tolist() for n in (3, 19, 8)]
    together = model.generate(prompts, max_new_tokens=6, temperature=0)
    for prompt, row in zip(prompts, together, strict=True):
        alone = model.generate([prompt], max_new_tokens=6, temperature=0)[0]
        assert torch.equal(row, alone)


def test_decoding_equals_the_full_forward() -> None:
    model = build("mutual")
    ids = model.generate(text(2, 5), max_new_tokens=20, temperature=0)
    assert isinstance(ids, Tensor)
    with torch.no_grad():
        again = model(ids).logits.argmax(-1)
    assert torch.equal(again[:, 4:-1], ids[:, 5:])
