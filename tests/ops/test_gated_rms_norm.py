"""The fused gated norm against its formula."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.gated_rms_norm import gated_rms_norm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def _poison_empty_buffers() -> Iterator[None]:
    """`torch.empty` gives NaN, so that a value nobody wrote is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(length: int, width: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    gen = torch.Generator().manual_seed(length)
    shapes = ((2, length, width), (2, length, width), (width,))
    return tuple(torch.randn(*s, generator=gen, dtype=dtype) * 3 for s in shapes)


def run_with_grads(args: tuple[Tensor, ...], groups: int, backend: str) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in args]
    out = gated_rms_norm(*leaves, groups=groups, backend=backend)
    gen = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=gen, dtype=out.dtype))
    return [out, *(t.grad for t in leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 2, 63, 65])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_kernel_agrees_with_the_formula(dtype: torch.dtype, length: int, groups: int) -> None:
    args = problem(length, dtype=dtype)
    got = run_with_grads(args, groups, "cpu")
    for value, want in zip(got, run_with_grads(args, groups, "naive"), strict=True):
        assert (value - want).norm() / want.norm() < TOLERANCE[dtype]


def test_a_slice_of_a_projection_is_read_in_place() -> None:
    y, z, weight = problem(9)
    wide = torch.cat([torch.full_like(z, torch.nan), z, z], dim=-1)[..., 12:24]
    assert torch.equal(gated_rms_norm(y, wide, weight), gated_rms_norm(y, z, weight))


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.gated_rms_norm.cpu import _backward, _forward

    inputs = tuple(t.requires_grad_() for t in problem(7, dtype=torch.float32))
    torch.library.opcheck(_forward, (*inputs, 3, 1e-5))
    detached = tuple(t.detach() for t in inputs)
    torch.library.opcheck(_backward, (detached[0], *detached, 3, 1e-5))


def test_wrong_shapes_are_refused() -> None:
    y, z, weight = problem(9)
    with pytest.raises(InputError, match="y and z"):
        gated_rms_norm(y, z[:, :8], weight)
    with pytest.raises(InputError, match="weight"):
        gated_rms_norm(y, z, weight[:-1])
    with pytest.raises(InputError, match="groups"):
        gated_rms_norm(y, z, weight, groups=5)
