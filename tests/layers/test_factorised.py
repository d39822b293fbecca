"""Matrices of low rank: the best of their rank, and a model that stays a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from state_core import SOSM, audit_causality
from state_core.adapters.factorise import factorize
from state_core.errors import ConfigError
from state_core.layers.factorised import FactorisedLinear
from tests.invariants.variants import build, text


def test_the_product_is_the_best_of_its_rank() -> None:
    """Eckart-Young: the error is the norm of the singular values that were cut."""
    linear = nn.Linear(20, 14, bias=True).double()
    values = torch.linalg.svdvals(linear.weight)
    for rank in (1, 5, 14):
        low = FactorisedLinear(linear, rank)
        assert low.a.weight.shape == (rank, 20)
        assert low.b.weight.shape == (14, rank)
        error = (low.b.weight @ low.a.weight - linear.weight).norm()
        torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(low.a.weight.norm(), low.b.weight.norm())
    x = torch.randn(3, 20, dtype=torch.float64)
    torch.testing.assert_close(FactorisedLinear(linear, 14)(x), linear(x))


def test_a_factorised_model_is_smaller_and_near() -> None:
    model, ids = build("as recommended"), text(2, 30)
    errors, sizes = [], []
    with torch.no_grad():
        want = model(ids).logits
        for rank in (4, 12):
            low = factorize(model, rank)
            sizes.append(low.num_parameters())
            errors.append(float((low(ids).logits - want).norm()))
    assert errors[1] < errors[0]
    assert sizes == sorted(sizes)
    assert sizes[1] < model.num_parameters()
    assert audit_causality(low, length=20).passed


def test_a_matrix_of_low_rank_already_is_not_changed() -> None:
    model, ids = build("as recommended"), text(2, 30)
    with torch.no_grad():
        for module in model.blocks.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(
                    torch.outer(torch.randn(module.out_features), torch.randn(module.in_features))
                )
        got, want = factorize(model, 1)(ids).logits, model(ids).logits
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_it_is_saved_loaded_and_trained(tmp_path: Path) -> None:
    low, ids = factorize(build("as recommended"), 4), text(2, 20)
    low.save_pretrained(tmp_path)
    with torch.no_grad():
        again = SOSM.from_pretrained(tmp_path)(ids).logits
        torch.testing.assert_close(again, low(ids).logits, rtol=0, atol=0)
    low(ids, labels=ids).loss.backward()
    assert low.blocks[0].mixer.in_proj.a.weight.grad is not None
    with pytest.raises(ConfigError, match="already"):
        factorize(low, 2)
