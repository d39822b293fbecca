"""The audit bites: one planted leak per part, each caught, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from state_core import SOSM, audit_causality
from state_core.adapters import moving_average as averages
from state_core.adapters import mu_adapter
from state_core.adapters.recency import Recency
from state_core.adapters.temporal_adapter import TemporalAdapter
from state_core.graph import adaptive_k, graph_builder
from state_core.layers import attention, mamba, pointer
from state_core.memory.text_memory import TextMemory
from tests.invariants.variants import build

Patch = Callable[[pytest.MonkeyPatch, SOSM], None]


def _tomorrow(x: Tensor, dim: int = 1) -> Tensor:
    """Each token gets what belongs to the next one."""
    return x.roll(-1, dims=dim)


def _wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: change(original, *a, **k))


def leak_in_token_blocks(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(patch, model.mu, "forward", lambda f, e, *a: f(_tomorrow(e), *a))


def leak_in_local_blocks(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(patch, model.mu, "_convolve", lambda f, e, n: _tomorrow(f(e, n)))


def leak_in_averages(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def backwards(f: Any, x: Tensor, decay: Tensor, past: Any = None) -> Any:
        y, last = f(x.flip(1), decay, past)
        return y.flip(1), last

    assert averages.moving_average is mu_adapter.moving_average
    _wrap(patch, mu_adapter, "moving_average", backwards)


def leak_in_recency(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def due(f: Any, ids: Tensor, recency: Recency) -> Tensor:
        shifted = Recency(recency.position, _tomorrow(recency.gap), _tomorrow(recency.count))
        out: Tensor = f(ids, shifted)
        return out

    assert isinstance(model.temporal, TemporalAdapter)
    _wrap(patch, model.temporal, "forward", due)


def leak_in_topk(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(
        patch, graph_builder.ops, "causal_topk", lambda f, *a, **k: f(*a, **{**k, "causal": False})
    )


def leak_in_successors(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def later(f: Any, parts: Any, shortcuts: Any, positions: Tensor, *rest: Any) -> Any:
        neighbors, counts, kinds = f(parts, shortcuts, positions, *rest)
        last = torch.full_like(positions, rest[-1] - 1)
        neighbors = torch.where(neighbors == positions[..., None], last[..., None], neighbors)
        return neighbors.to(torch.int32), counts, kinds

    _wrap(patch, graph_builder, "assemble_rows", later)


def leak_in_adaptive_k(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def of_this_sequence(semantic: Tensor, scores: Tensor) -> Tensor:
        spread = semantic.double().flatten(2).std(-1)
        return 40 * (spread - spread.mean(dim=1, keepdim=True))

    assert model.graph_builder.adaptive_k is not None
    model.graph_builder.adaptive_k.batches.fill_(1)
    model.graph_builder.adaptive_k.var.fill_(1.0)
    patch.setitem(adaptive_k.AMBIGUITY, "scores", of_this_sequence)


def leak_in_mamba(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(patch, mamba, "causal_conv1d", lambda f, x, *a, **k: f(_tomorrow(x), *a, **k))


def leak_in_graph_attention(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def future_values(f: Any, q: Tensor, k: Tensor, v: Tensor, *a: Any, **kw: Any) -> Any:
        return f(q, k, _tomorrow(v, dim=2), *a, **kw)

    _wrap(patch, graph_builder.ops, "graph_attention", future_values)


def leak_in_dense_attention(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def unmasked(f: Any, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Any:
        return f(q, k, v)

    _wrap(patch, attention.F, "scaled_dot_product_attention", unmasked)


def leak_in_a_norm(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(patch, model.norm, "forward", lambda f, x: f(x - x.mean(dim=1, keepdim=True)))


def leak_in_the_pointer(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    def itself_too(f: Any, graph: Any) -> Tensor:
        width = torch.arange(graph.neighbors.shape[-1])
        return width < graph.counts[..., None]

    _wrap(patch, pointer, "voting_edges", itself_too)

    # A token that votes for what follows itself needs an id to be there: the last has none.
    def read(f: Any, h: Tensor, g: Any, k: Tensor, ids: Tensor, recalled: Any) -> Any:
        return f(h, g, k, ids[:, _next(ids)], recalled)

    _wrap(patch, model.pointer, "forward", read)


def leak_in_memory(patch: pytest.MonkeyPatch, model: SOSM) -> None:
    _wrap(patch, TextMemory, "recall", lambda f, memory, u: f(memory, _tomorrow(u)))


def _next(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1] + 1).clamp(max=ids.shape[1] - 1)


LEAKS: dict[str, tuple[Patch, str, str]] = {
    "token blocks": (leak_in_token_blocks, "as recommended", "state.semantic"),
    "local blocks": (leak_in_local_blocks, "as recommended", "state.semantic"),
    "moving averages": (leak_in_averages, "as recommended", "state.semantic"),
    "recency": (leak_in_recency, "as recommended", "state.temporal"),
    "top-K": (leak_in_topk, "as recommended", "graph.edges"),
    "rows": (leak_in_successors, "no semantic edges", "graph.weights"),
    "adaptive K": (leak_in_adaptive_k, "as recommended", "graph.edges"),
    "Mamba": (leak_in_mamba, "mixer mamba, no graph", "logits"),
    "graph attention": (leak_in_graph_attention, "mixer graph_attention", "logits"),
    "dense attention": (leak_in_dense_attention, "mixer attention, no graph", "logits"),
    "norm": (leak_in_a_norm, "as recommended", "logits"),
    "pointer": (leak_in_the_pointer, "as recommended", "pointer.words"),
    "memory": (leak_in_memory, "memory", "memory.items"),
}


@contextmanager
def planted(name: str) -> Iterator[SOSM]:
    leak, variant, _ = LEAKS[name]
    model = build(variant)
    with pytest.MonkeyPatch.context() as patch:
        leak(patch, model)
        yield model


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_caught_and_named(name: str) -> None:
    with planted(name) as model:
        report = audit_causality(model, length=41)
    part = LEAKS[name][2]
    assert not report.passed
    assert part in report.leaking_parts, str(report)
    assert "FAILED" in str(report)
    assert part in str(report)


def test_the_audit_leaves_the_model_as_it_was() -> None:
    model = build("dropout").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    report = audit_causality(model)
    assert report.passed
    assert "passed" in str(report)
    assert model.training
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.1, 0.1]
