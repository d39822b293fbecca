"""Every name reads what it says, of every variant, and reading changes no bit."""

from __future__ import annotations

import pytest
import torch

from state_core.analysis import internals, run_with_cache
from state_core.errors import InputError
from tests.invariants.variants import VARIANTS, build, text


@pytest.mark.parametrize("name", VARIANTS)
def test_reading_everything_changes_no_bit(name: str) -> None:
    model, ids = build(name), text(2, 37)
    named = internals(model)
    with torch.no_grad():
        plain = model(ids, labels=ids)
        out, cache = run_with_cache(model, ids, "*", labels=ids)
        after = model(ids, labels=ids)
    assert torch.equal(plain.logits, out.logits)
    assert torch.equal(plain.logits, after.logits)
    assert len(cache) > 8
    assert set(cache) <= set(named)
    for key, value in cache.items():
        assert value.dim() == len(named[key].split(",")), key
        assert value.shape[0] == 2, key
    assert not any(m._forward_hooks for m in model.modules())


def test_names_are_these() -> None:
    named = internals(build("phase6"))
    assert {
        "embed", "hidden", "state.R2", "state.temporal", "graph.weights", "graph.log_gates",
        "blocks.0.input", "blocks.0.mixer", "blocks.0.mlp", "blocks.0.output",
        "blocks.0.mamba.delta", "blocks.0.mamba.B", "blocks.1.attn.pattern", "blocks.1.attn.z",
        "blocks.1.attn.memory.share", "pointer.log_share",
    } <= set(named)  # fmt: skip
    assert named["blocks.1.attn.pattern"] == "[B,H,T,E]"


def test_values_are_what_they_are_called() -> None:
    model, ids = build("as recommended"), text(2, 30)
    with torch.no_grad():
        out, cache = run_with_cache(
            model, ids, ["state.R2", "graph.weights", "blocks.1.attn.*", "blocks.*", "hidden"],
            return_graph=True, return_state=True,
        )  # fmt: skip
    assert torch.equal(cache["state.R2"], out.state.block("R2"))
    assert torch.equal(cache["graph.weights"], out.graph.weights)
    assert torch.equal(cache["hidden"], out.hidden)
    assert torch.equal(cache["blocks.1.input"], cache["blocks.0.output"])
    residual = cache["blocks.1.input"] + cache["blocks.1.mixer"] + cache["blocks.1.mlp"]
    torch.testing.assert_close(residual, cache["blocks.1.output"])
    shares = cache["blocks.1.attn.pattern"]
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[..., 0]))
    row = torch.arange(2)[:, None, None]
    values = cache["blocks.1.attn.v"][row, out.graph.neighbors.clamp(min=0).long()]
    z = torch.einsum("bhte,btehd->bthd", shares, values)
    torch.testing.assert_close(z, cache["blocks.1.attn.z"], rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_is_kept() -> None:
    model = build("as recommended")
    _, cache = run_with_cache(model, text(1, 20), "blocks.*.mamba.delta")
    assert list(cache) == ["blocks.0.mamba.delta"]
    assert cache["blocks.0.mamba.delta"].requires_grad


def test_a_misspelt_name_names_the_nearest_and_an_exception_leaves_no_hook() -> None:
    model = build("as recommended")
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.pattern"):
        run_with_cache(model, text(1, 9), "blocks.1.attn.patern")
    with pytest.raises(InputError, match="no internal"):
        run_with_cache(model, text(1, 9), "blocks.9.*")
    with pytest.raises(InputError):
        run_with_cache(model, text(1, 9) + 1000, "*")
    assert not any(m._forward_hooks for m in model.modules())
