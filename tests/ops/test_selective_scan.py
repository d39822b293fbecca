"""Mamba-1's scan: backends against the recurrence, states, decode, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.errors import BackendError, InputError
from state_core.ops.selective_scan import OP, selective_scan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def problem(
    length: int,
    channels: int = 21,
    n_state: int = 5,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Every tensor of the op, with decays from almost 1 to about exp(-16)."""
    gen = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=dtype)

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels).sub(1.0).exp().clamp(max=1.0),
        "A": -torch.linspace(0.02, 16.0, channels * n_state, dtype=dtype).view(n_state, -1).T,
        "B": normal(batch, length, n_state),
        "C": normal(batch, length, n_state),
        "D": normal(channels),
        "initial_state": normal(batch, channels, n_state),
    }


def run_with_grads(args: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss that weights both outputs unevenly."""
    leaves = {name: t.clone().requires_grad_() for name, t in args.items()}
    y, state = selective_scan(**leaves, return_state=True, backend=backend)
    gen = torch.Generator().manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, generator=gen, dtype=torch.float64).to(out)).sum()
        for out in (y, state)
    )
    loss.backward()
    return {"y": y, "state": state} | {f"d{name}": t.grad for name, t in leaves.items()}


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    for name, reference in want.items():
        error = (got[name] - reference).norm() / reference.norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 65])
def test_cpu_agrees_with_the_recurrence(dtype: torch.dtype, length: int) -> None:
    args = problem(length, dtype=dtype)
    assert_close(run_with_grads(args, "cpu"), run_with_grads(args, "naive"), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("length", "channels", "n_state"), [(1, 5, 3), (2, 5, 3), (17, 20, 16), (63, 5, 3), (65, 3, 5)]
)
def test_triton_agrees_with_the_recurrence(
    length: int, channels: int, n_state: int, triton_device: torch.device
) -> None:
    args = problem(length, channels, n_state, dtype=torch.float32)
    there = {name: t.to(triton_device) for name, t in args.items()}
    got = {name: t.cpu() for name, t in run_with_grads(there, "triton").items()}
    assert_close(got, run_with_grads(args, "naive"), 1e-5)


def test_triton_keeps_low_precision_where_it_came(triton_device: torch.device) -> None:
    args = problem(20, 5, 3, dtype=torch.float32)
    del args["D"], args["initial_state"]
    low = {n: t if n in ("A", "delta") else t.bfloat16() for n, t in args.items()}
    got = run_with_grads({n: t.to(triton_device) for n, t in low.items()}, "triton")
    assert got["y"].dtype == got["du"].dtype == torch.bfloat16
    assert got["state"].dtype == got["ddelta"].dtype == torch.float32
    want = run_with_grads({n: t.float() for n, t in low.items()}, "naive")
    assert_close({n: t.cpu().float() for n, t in got.items()}, want, 3e-2)


def test_triton_refuses_float64(triton_device: torch.device) -> None:
    with pytest.raises(InputError, match="float64"):
        selective_scan(**{n: t.to(triton_device) for n, t in problem(3).items()}, backend="triton")


def test_triton_ops_are_registered_correctly(triton_device: torch.device) -> None:
    from state_core.ops.selective_scan.triton import _scan, _scan_backward

    args = problem(3, 4, 2, batch=1, dtype=torch.float32)
    inputs = tuple(t.to(triton_device).requires_grad_() for t in args.values())
    torch.library.opcheck(_scan, inputs)
    torch.library.opcheck(_scan, (*inputs[:5], None, None))
    detached = tuple(t.detach() for t in inputs)
    y, final, entering = _scan(*detached)
    torch.library.opcheck(_scan_backward, (y, final, *detached[:6], entering))


@given(
    length=st.integers(2, 70),
    channels=st.integers(1, 140),
    n_state=st.integers(1, 20),
    batch=st.integers(1, 3),
)
@settings(max_examples=20)
def test_any_shape(length: int, channels: int, n_state: int, batch: int) -> None:
    args = problem(length, channels, n_state, batch)
    assert_close(run_with_grads(args, "cpu"), run_with_grads(args, "naive"), 1e-11)


def test_optional_tensors_may_be_absent() -> None:
    args = problem(37)
    del args["D"], args["initial_state"]
    assert_close(run_with_grads(args, "cpu"), run_with_grads(args, "naive"), 1e-11)


def test_a_loss_may_ignore_one_of_the_outputs() -> None:
    args = problem(40)
    for output in (0, 1):
        grads = {}
        for backend in ("cpu", "naive"):
            leaves = {name: t.clone().requires_grad_() for name, t in args.items()}
            chosen = selective_scan(**leaves, return_state=True, backend=backend)[output]
            found = torch.autograd.grad(
                chosen.square().sum(), list(leaves.values()), allow_unused=True
            )
            zeros = (torch.zeros_like(t) for t in args.values())
            grads[backend] = {
                name: zero if grad is None else grad
                for name, zero, grad in zip(leaves, zeros, found, strict=True)
            }
        assert_close(grads["cpu"], grads["naive"], 1e-11)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_chunks_of_a_sequence_continue_it(backend: str) -> None:
    args = problem(70)
    whole, last = selective_scan(**args, return_state=True, backend=backend)
    state, parts = args.pop("initial_state"), []
    for piece in ([0, 1], [1, 20], [20, 69], [69, 70]):
        cut = {n: t[:, slice(*piece)] if t.dim() > 2 else t for n, t in args.items()}
        y, state = selective_scan(**cut, initial_state=state, return_state=True, backend=backend)
        parts.append(y)
    assert_close({"y": torch.cat(parts, 1), "s": state}, {"y": whole, "s": last}, 1e-11)


def test_a_thousand_slow_decays_are_as_exact_as_the_reference() -> None:
    args = problem(1000, channels=16, dtype=torch.float32)
    args["delta"] = args["delta"] * 1e-3
    exact = selective_scan(**{name: t.double() for name, t in args.items()}, backend="naive")
    ours, reference = (
        (selective_scan(**args, backend=backend) - exact).norm() for backend in ("cpu", "naive")
    )
    assert ours < 1.5 * reference


def test_strong_decay_neither_overflows_nor_becomes_nan() -> None:
    args = problem(66, dtype=torch.float32)
    args["A"] = torch.full_like(args["A"], -1e4)
    ours = run_with_grads(args, "cpu")
    for name, value in ours.items():
        assert torch.isfinite(value).all(), name
    del ours["dinitial_state"]  # 2^-100 for what the reference rounds to 0
    assert_close(
        {**ours}, {n: v for n, v in run_with_grads(args, "naive").items() if n in ours}, 1e-5
    )


def test_rows_repeats_and_threads_give_the_same_bits() -> None:
    args = problem(70, channels=70, batch=3, dtype=torch.float32)
    threads = torch.get_num_threads()
    whole = run_with_grads(args, "cpu")
    torch.set_num_threads(1)
    single = run_with_grads(args, "cpu")
    torch.set_num_threads(threads)
    for name, value in whole.items():
        assert torch.equal(value, single[name]), name
    alone = {n: t[1:2] if n not in ("A", "D") else t for n, t in args.items()}
    assert torch.equal(whole["y"][1:2], selective_scan(**alone, backend="cpu"))


def test_nan_stays_visible() -> None:
    for name in ("u", "delta", "B"):
        args = problem(20, dtype=torch.float32)
        args[name][0, 3] = torch.nan
        y = selective_scan(**args, backend="cpu")
        assert y[0, 3:].isnan().all()
        assert y[1].isfinite().all()
        assert y[0, :3].isfinite().all()


def test_slices_of_a_projection_are_accepted() -> None:
    args = problem(33)
    packed = torch.cat([args["u"], args["B"], args["C"]], -1)
    u, B, C = packed.split([21, 5, 5], dim=-1)
    views = args | {"u": u, "B": B, "C": C}
    assert torch.equal(
        selective_scan(**views, backend="cpu"), selective_scan(**args, backend="cpu")
    )


def test_half_precision_input_is_computed_in_float32() -> None:
    args = problem(40, dtype=torch.float32)
    half = args | {"u": args["u"].bfloat16()}
    y, state = selective_scan(**half, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    reference = selective_scan(**args | {"u": half["u"].float()})
    torch.testing.assert_close(y.float(), reference, rtol=1e-2, atol=1e-2)


def test_states_of_all_tokens_are_never_in_memory() -> None:
    from state_core.ops.selective_scan.cpu import _forward

    args = problem(1000, channels=64, n_state=16, batch=1, dtype=torch.float32)
    kept = _forward(*args.values())[2]
    assert kept.numel() < 1.1 * args["u"].numel()


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.selective_scan.cpu import _backward, _forward

    args = problem(40, dtype=torch.float32)
    inputs = tuple(t.requires_grad_() for t in args.values())
    torch.library.opcheck(_forward, inputs)
    torch.library.opcheck(_forward, (*inputs[:5], None, None))
    detached = tuple(t.detach() for t in inputs)
    y, final, entering = _forward(*detached)
    torch.library.opcheck(_backward, (y, final, *detached[:6], entering))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("u", (9, 21)), ("delta", (2, 9, 20)), ("A", (21,)), ("A", (5, 21)), ("B", (2, 9, 6)),
     ("C", (2, 8, 5)), ("D", (1,)), ("initial_state", (2, 5, 21))],
)  # fmt: skip
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=name):
        selective_scan(**problem(9) | {name: torch.zeros(shape)})


def test_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="T >= 1"):
        selective_scan(**problem(0))


def test_unknown_backend_is_named() -> None:
    with pytest.raises(BackendError, match="naive"):
        selective_scan(**problem(3), backend="naiv")
    assert OP.choose("auto", "cpu")[0] == "cpu"
