"""What is changed, where, and that the model is as it was afterwards."""

from __future__ import annotations

import pytest
import torch

from state_core import EdgeKind
from state_core.analysis import (
    cut_edges,
    edit,
    internals,
    intervene,
    mean,
    patch,
    run_with_cache,
    zero,
)
from state_core.errors import InputError
from tests.invariants.variants import VARIANTS, build, text

ATTENDING = [n for n in VARIANTS if "blocks.1.attn.pattern" in internals(build(n))]


@pytest.fixture
def model():
    return build("as recommended")


def test_a_layer_is_taken_out(model) -> None:
    ids = text(2, 30)
    with torch.no_grad(), intervene(model, zero("blocks.1.mixer"), zero("blocks.1.mlp")):
        _, cache = run_with_cache(model, ids, "blocks.*")
    assert torch.equal(cache["blocks.1.output"], cache["blocks.1.input"])


def test_a_head_alone_and_a_token_alone(model) -> None:
    ids = text(2, 30)
    with torch.no_grad(), intervene(model, zero("blocks.1.attn.z", heads=[1], tokens=[4, 9])):
        _, cut = run_with_cache(model, ids, "blocks.1.attn.z")
    _, whole = run_with_cache(model, ids, "blocks.1.attn.z")
    found, expected = cut["blocks.1.attn.z"], whole["blocks.1.attn.z"].clone()
    expected[:, [4, 9], 1] = 0
    assert torch.equal(found, expected)


def test_a_patch_carries_a_run_over(model) -> None:
    one, other = text(1, 30), text(1, 30, seed=1)
    with torch.no_grad():
        wanted, cache = run_with_cache(model, other, "blocks.1.output")
        with intervene(model, patch("blocks.1.output", cache["blocks.1.output"])):
            out, _ = run_with_cache(model, one, "hidden")
    assert torch.equal(out.hidden, wanted.hidden)
    other_length = patch("blocks.1.output", cache["blocks.1.output"])
    with pytest.raises(InputError, match="as many tokens"), intervene(model, other_length):
        model(text(1, 31))


def test_a_state_block_at_its_mean_says_the_same_of_every_token(model) -> None:
    with torch.no_grad(), intervene(model, mean("state.K")):
        out = model(text(2, 30), return_state=True)
    block = out.state.block("K")
    assert (block == block[:1, :1]).all()
    assert out.state.block("I").std() > 0


@pytest.mark.parametrize("name", ATTENDING)
def test_the_same_pattern_put_back_gives_the_same_output(name: str) -> None:
    """The way round the kernel computes what the kernel does."""
    model, ids = build(name), text(2, 30)
    with torch.no_grad():
        plain = model(ids).logits
        with intervene(model, edit("blocks.1.attn.pattern", torch.clone)):
            again = model(ids).logits
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-4)


def test_edges_are_cut_for_who_reads_the_graph(model) -> None:
    ids = text(2, 40)
    with torch.no_grad():
        whole = model(ids, return_graph=True)
        with cut_edges(model, kinds=[EdgeKind.SEMANTIC]):
            none = model(ids, return_graph=True)
        i = 30
        j = int(whole.graph.rows(0, i).neighbors[-1])
        with cut_edges(model, edges=[(i, j)]):
            one = model(ids, return_graph=True)
    assert not (none.graph.kind == EdgeKind.SEMANTIC).any()
    assert j not in one.graph.rows(0, i).neighbors.tolist()
    assert len(one.graph.kind) >= len(whole.graph.kind) - 2
    assert torch.equal(one.logits[0, :i], whole.logits[0, :i])
    assert not torch.equal(one.logits[0, i:], whole.logits[0, i:])
    with pytest.raises(InputError, match="kinds, edges, or both"), cut_edges(model):
        pass


def test_whatever_happens_the_model_is_as_it_was(model) -> None:
    ids = text(1, 20)
    plain = model(ids).logits
    with pytest.raises(InputError, match="no heads"), intervene(model, zero("embed", heads=[0])):
        model(ids)
    shorter = edit("embed", lambda x: x[:, :1])
    with pytest.raises(InputError, match="its edit gave"), intervene(model, shorter):
        model(ids)
    with pytest.raises(InputError, match=r"state\.K"), intervene(model, zero("state.KK")):
        pass
    assert torch.equal(model(ids).logits, plain)
