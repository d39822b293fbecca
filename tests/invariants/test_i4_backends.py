"""I4: every op has a reference, and the whole model gives the same with it, gradients too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from state_core.ops.backend import REGISTRY, use_backend
from tests.invariants.variants import VARIANTS, build, text


@pytest.mark.parametrize("op", sorted(REGISTRY))
def test_every_op_has_a_reference_and_its_own_tests(op: str) -> None:
    assert "naive" in REGISTRY[op].backends
    assert (Path(__file__).parents[1] / "ops" / f"test_{op}.py").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_model_agrees_with_its_reference(name: str) -> None:
    ids = text(2, 33)
    results = []
    for backend in ("naive", "auto"):
        model = build(name)
        with use_backend(backend):
            out = model(ids, labels=ids, return_graph=True)
            assert out.loss is not None
            out.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((out, grads))
    (slow, slow_grads), (fast, fast_grads) = results
    torch.testing.assert_close(fast.loss, slow.loss, rtol=1e-5, atol=1e-6)
    if slow.graph is not None and fast.graph is not None:
        assert torch.equal(slow.graph.neighbors, fast.graph.neighbors)
    assert slow_grads.keys() == fast_grads.keys()
    for parameter, expected in slow_grads.items():
        scale = expected.square().mean().sqrt().clamp(min=1e-6)
        error = (fast_grads[parameter] - expected).square().mean().sqrt() / scale
        assert error < 2e-3, f"{parameter}: RMS-relative error {error:.2g}"
