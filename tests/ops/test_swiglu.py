"""The fused SwiGLU gate against its formula."""

from __future__ import annotations

import pytest
import torch

from state_core.errors import InputError
from state_core.ops.swiglu import swiglu

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2), (2, 63, 10), (65, 34), (0, 4)])
def test_the_kernel_agrees_with_the_formula(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = 4 * torch.randn(shape, dtype=dtype)
    results = []
    for backend in ("naive", "cpu"):
        leaf = x.clone().requires_grad_()
        out = swiglu(leaf, backend=backend)
        out.backward(torch.cos(torch.arange(out.numel(), dtype=dtype)).view_as(out))
        results.append((out, leaf.grad))
    for got, want in zip(results[1], results[0], strict=True):
        assert (got - want).norm() <= TOLERANCE[dtype] * want.norm()


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.swiglu.cpu import _backward, _forward

    torch.library.opcheck(_forward, (torch.randn(5, 6, requires_grad=True),))
    torch.library.opcheck(_backward, (torch.randn(5, 3), torch.randn(5, 6)))


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(InputError, match="2F"):
        swiglu(torch.zeros(2, 3))
