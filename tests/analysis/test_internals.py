"""Every name reads what it says, of every variant, and reading changes no bit."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


class Memory(TorchDispatchMode):
    """Bytes that tensors made while it lasts hold now, and the most that they held."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, list[int]] = {}
        self.bytes = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._hold(value)
        return result

    def _hold(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        entry = self.held.setdefault(storage.data_ptr(), [0, storage.nbytes()])
        self.bytes += 0 if entry[0] else entry[1]
        entry[0] += 1
        self.most = max(self.most, self.bytes)
        weakref.finalize(value, self._drop, storage.data_ptr())

    def _drop(self, address: int) -> None:
        entry = self.held[address]
        entry[0] -= 1
        if not entry[0]:
            self.bytes -= self.held.pop(address)[1]


def size(value: Tensor) -> int:
    return value.numel() * value.element_size()


@torch.no_grad()
@pytest.mark.parametrize("name", ["as recommended", "phase6"])
def test_what_is_kept_is_as_large_as_what_was_asked_for(name: str) -> None:
    """A view of something larger would keep that as well."""
    model, ids = build(name), text(2, 64)
    _, cache = run_with_cache(model, ids, "*")
    for key, value in cache.items():
        assert value.untyped_storage().nbytes() == size(value), key


@torch.no_grad()
def test_a_named_request_needs_little_more_memory_than_itself() -> None:
    model, ids = build("phase6"), text(2, 256)
    model(ids)
    with Memory() as plain:
        model(ids)
    assert plain.bytes == 0
    for asked in ("state.R2", "blocks.*.mamba.B", "blocks.*.output"):
        with Memory() as named:
            cache = run_with_cache(model, ids, asked)[1]
        of_request = sum(size(value) for value in cache.values())
        assert named.bytes == of_request, asked
        assert named.most <= plain.most + of_request, asked


def test_a_misspelt_name_names_the_nearest_and_an_exception_leaves_no_hook() -> None:
    model = build("as recommended")
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.pattern"):
        run_with_cache(model, text(1, 9), "blocks.1.attn.patern")
    with pytest.raises(InputError, match="no internal"):
        run_with_cache(model, text(1, 9), "blocks.9.*")
    with pytest.raises(InputError):
        run_with_cache(model, text(1, 9) + 1000, "*")
    assert not any(m._forward_hooks for m in model.modules())
