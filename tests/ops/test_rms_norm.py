"""The fused RMS norm against its formula and torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from state_core.errors import InputError
from state_core.ops.rms_norm import rms_norm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (2, 63, 10), (65, 17), (130, 5)])
def test_the_kernel_agrees_with_the_formula(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight = 4 * torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    results = []
    for backend in ("naive", "cpu"):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = rms_norm(*leaves, backend=backend)
        out.backward(torch.cos(torch.arange(out.numel(), dtype=dtype)).view_as(out))
        results.append([out, *(leaf.grad for leaf in leaves)])
    for got, want in zip(results[1], results[0], strict=True):
        assert (got - want).norm() <= TOLERANCE[dtype] * (1 + want.norm())
    torch.testing.assert_close(results[1][0], F.rms_norm(x, shape[-1:], weight, 1e-5))


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.rms_norm.cpu import _backward, _forward

    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    torch.library.opcheck(_forward, (x, weight, 1e-5))
    torch.library.opcheck(_backward, (torch.randn(5, 6), x.detach(), weight.detach(), 1e-5))


def test_a_weight_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="weight"):
        rms_norm(torch.zeros(2, 3), torch.zeros(4))
