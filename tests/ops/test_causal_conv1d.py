"""The short convolution: the Numba kernel against the sum of shifts, states, bad input."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.causal_conv1d import causal_conv1d

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def _poison_empty_buffers() -> Iterator[None]:
    """`torch.empty` gives NaN, so that a value nobody wrote is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(
    length: int, channels: int = 5, taps: int = 4, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    gen = torch.Generator().manual_seed(length)
    shapes = {
        "x": (2, length, channels),
        "weight": (channels, taps),
        "bias": (channels,),
        "initial_state": (2, taps - 1, channels),
    }
    return {n: torch.randn(*s, generator=gen, dtype=dtype) for n, s in shapes.items()}


def run_with_grads(
    args: dict[str, Tensor], backend: str, activation: str | None
) -> dict[str, Tensor]:
    leaves = {name: t.clone().requires_grad_() for name, t in args.items()}
    y, state = causal_conv1d(**leaves, activation=activation, return_state=True, backend=backend)
    gen = torch.Generator().manual_seed(1)
    weights = [torch.randn(out.shape, generator=gen, dtype=out.dtype) for out in (y, state)]
    ((y * weights[0]).sum() + (state * weights[1]).sum()).backward()
    return {"y": y, "state": state} | {f"d{n}": t.grad for n, t in leaves.items()}


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    for name, reference in want.items():
        error = (got[name] - reference).norm() / reference.norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 2, 63, 65, 130])
def test_the_kernel_agrees_with_the_reference(
    activation: str | None, dtype: torch.dtype, length: int
) -> None:
    args = problem(length, dtype=dtype)
    assert_close(
        run_with_grads(args, "cpu", activation),
        run_with_grads(args, "naive", activation),
        TOLERANCE[dtype],
    )


@given(length=st.integers(2, 70), channels=st.integers(1, 40), taps=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_any_shape(length: int, channels: int, taps: int) -> None:
    args = problem(length, channels, taps)
    assert_close(run_with_grads(args, "cpu", "silu"), run_with_grads(args, "naive", "silu"), 1e-11)


def test_it_is_the_convolution_of_torch() -> None:
    args = problem(20)
    del args["initial_state"]
    want = F.conv1d(F.pad(args["x"].mT, (3, 0)), args["weight"][:, None], args["bias"], groups=5).mT
    for backend in ("naive", "cpu"):
        torch.testing.assert_close(causal_conv1d(**args, backend=backend), want)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_pieces_continue_a_sequence(backend: str) -> None:
    args = problem(70)
    whole, last = causal_conv1d(**args, activation="silu", return_state=True, backend=backend)
    x, state = args.pop("x"), args.pop("initial_state")
    parts = []
    for piece in x.split([1, 1, 2, 60, 6], dim=1):
        y, state = causal_conv1d(
            piece,
            **args,
            initial_state=state,
            activation="silu",
            return_state=True,
            backend=backend,
        )
        parts.append(y)
    assert_close({"y": torch.cat(parts, 1), "s": state}, {"y": whole, "s": last}, 1e-12)


def test_a_slice_of_a_projection_is_read_in_place() -> None:
    args = problem(33, dtype=torch.float32)
    wide = torch.cat([torch.full((2, 33, 3), torch.nan), args["x"], torch.zeros(2, 33, 2)], -1)
    view = wide[..., 3:8]
    assert not view.is_contiguous()
    assert_close(
        run_with_grads(args, "cpu", "silu")
        | {"y": causal_conv1d(**args | {"x": view}, activation="silu", backend="cpu")},
        run_with_grads(args, "cpu", "silu"),
        1e-7,
    )


def test_rows_and_repeats_are_bitwise_equal() -> None:
    args = problem(130, dtype=torch.float32)
    first, again = (run_with_grads(args, "cpu", "silu") for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    args["x"], args["initial_state"] = args["x"][1:], args["initial_state"][1:]
    alone = run_with_grads(args, "cpu", "silu")
    assert torch.equal(alone["y"], first["y"][1:])


def test_large_inputs_do_not_overflow() -> None:
    args = {name: t * 100 for name, t in problem(9, dtype=torch.float32).items()}
    got = run_with_grads(args, "cpu", "silu")
    assert_close(got, run_with_grads(args, "naive", "silu"), 1e-5)


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.causal_conv1d.cpu import _backward, _forward

    inputs = tuple(t.requires_grad_() for t in problem(7, dtype=torch.float32).values())
    torch.library.opcheck(_forward, (*inputs, True))
    torch.library.opcheck(_forward, (*inputs[:2], None, None, False))
    detached = tuple(t.detach() for t in inputs)
    torch.library.opcheck(_backward, (detached[0], *detached, True))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (2, 5)),
        ("x", (2, 0, 5)),
        ("weight", (4, 5)),
        ("bias", (4,)),
        ("initial_state", (2, 4, 5)),
    ],
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=name):
        causal_conv1d(**problem(9) | {name: torch.zeros(shape)})


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match="silu"):
        causal_conv1d(**problem(9), activation="relu")
