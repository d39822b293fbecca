"""The selective scan: backends against the recurrence, states, decode, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from state_core.errors import BackendError, InputError
from state_core.ops.ssd import OP, ssd

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def problem(
    length: int,
    heads: int = 3,
    width: int = 5,
    groups: int = 1,
    n_state: int = 7,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Every tensor of the op, with decays from almost 1 to about exp(-16)."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=dtype)

    return {
        "x": normal(batch, length, heads, width),
        "dt": normal(batch, length, heads).sub(1.0).exp().clamp(max=1.0),
        "A": -torch.linspace(0.02, 16.0, heads, dtype=dtype),
        "B": normal(batch, length, groups, n_state),
        "C": normal(batch, length, groups, n_state),
        "D": normal(heads),
        "initial_state": normal(batch, heads, width, n_state),
    }


def run_with_grads(args: dict[str, Tensor], backend: str, chunk: int = 16) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss that weights both outputs unevenly."""
    leaves = {name: t.clone().requires_grad_() for name, t in args.items()}
    y, state = ssd(**leaves, return_state=True, chunk_size=chunk, backend=backend)
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


@pytest.fixture(autouse=True)
def poison_empty_buffers() -> None:
    """`torch.empty` gives NaN, so that a value nobody wrote is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [2, 63, 65])
def test_backends_agree_with_the_recurrence(backend: str, dtype: torch.dtype, length: int) -> None:
    args = problem(length, dtype=dtype)
    assert_close(run_with_grads(args, backend), run_with_grads(args, "naive"), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("length", "heads", "width", "groups", "n_state", "chunk"),
    [
        (1, 3, 5, 1, 7, 16),
        (2, 3, 5, 1, 7, 16),
        (63, 4, 5, 2, 7, 16),
        (65, 2, 17, 2, 20, 32),
        (33, 2, 40, 1, 33, 64),  # more than one block of columns, and a chunk cut to 32
    ],
)
def test_triton_agrees_with_the_recurrence(
    length: int,
    heads: int,
    width: int,
    groups: int,
    n_state: int,
    chunk: int,
    triton_device: torch.device,
) -> None:
    args = problem(length, heads, width, groups, n_state, dtype=torch.float32)
    there = {name: t.to(triton_device) for name, t in args.items()}
    got = {name: t.cpu() for name, t in run_with_grads(there, "triton", chunk).items()}
    assert_close(got, run_with_grads(args, "naive"), 1e-5)


def test_triton_without_optional_tensors(triton_device: torch.device) -> None:
    args = problem(20, dtype=torch.float32)
    del args["D"], args["initial_state"]
    there = {name: t.to(triton_device) for name, t in args.items()}
    got = {name: t.cpu() for name, t in run_with_grads(there, "triton").items()}
    assert_close(got, run_with_grads(args, "naive"), 1e-5)


def test_triton_computes_in_the_low_precision_it_is_given(triton_device: torch.device) -> None:
    """In float16: Triton's interpreter takes the bits of bfloat16 for integers."""
    args = problem(40, dtype=torch.float32)
    low = {n: t.half() if n in "xBC" else t for n, t in args.items()}
    got = run_with_grads({n: t.to(triton_device) for n, t in low.items()}, "triton")
    assert got["y"].dtype == got["dx"].dtype == got["dB"].dtype == torch.float16
    assert got["state"].dtype == got["ddt"].dtype == torch.float32
    want = run_with_grads({n: t.float() for n, t in low.items()}, "naive")
    assert_close({n: t.cpu().float() for n, t in got.items()}, want, 5e-3)


def test_triton_reads_slices_in_place(triton_device: torch.device) -> None:
    args = problem(20, heads=2, width=4, n_state=6, dtype=torch.float32)
    args = {n: t.to(triton_device) for n, t in args.items()}
    packed = torch.cat([args["x"].flatten(2), args["B"].flatten(2), args["C"].flatten(2)], -1)
    x, B, C = packed.split([8, 6, 6], dim=-1)
    views = args | {"x": x.unflatten(-1, (2, 4)), "B": B[:, :, None], "C": C[:, :, None]}
    assert torch.equal(ssd(**views, backend="triton"), ssd(**args, backend="triton"))


def test_triton_refuses_float64(triton_device: torch.device) -> None:
    with pytest.raises(InputError, match="float64"):
        ssd(**{n: t.to(triton_device) for n, t in problem(3).items()}, backend="triton")


def test_triton_ops_are_registered_correctly(triton_device: torch.device) -> None:
    from state_core.ops.ssd.triton import _scan, _scan_backward

    args = problem(3, heads=1, batch=1, dtype=torch.float32)
    inputs = tuple(t.to(triton_device).requires_grad_() for t in args.values())
    torch.library.opcheck(_scan, (*inputs, 16))
    torch.library.opcheck(_scan, (*inputs[:5], None, None, 16))
    detached = tuple(t.detach() for t in inputs)
    y, final, states = _scan(*detached, 16)
    torch.library.opcheck(_scan_backward, (y, final, *detached[:6], states, 16))


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
@given(
    length=st.integers(2, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 3), (2, 1)]),
    width=st.integers(1, 20),
    n_state=st.integers(1, 20),
    chunk=st.integers(1, 40),
)
@settings(max_examples=15, deadline=None)
def test_any_shape(
    backend: str, length: int, heads: tuple[int, int], width: int, n_state: int, chunk: int
) -> None:
    args = problem(length, heads[0], width, heads[1], n_state)
    assert_close(run_with_grads(args, backend, chunk), run_with_grads(args, "naive"), 1e-10)


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_optional_tensors_may_be_absent(backend: str) -> None:
    args = problem(37)
    del args["D"], args["initial_state"]
    assert_close(run_with_grads(args, backend), run_with_grads(args, "naive"), 1e-10)


@pytest.mark.parametrize("backend", ["cpu", "chunked", "naive"])
def test_chunks_of_a_sequence_continue_it(backend: str) -> None:
    args = problem(70)
    whole, last = ssd(**args, return_state=True, chunk_size=16, backend=backend)
    state, parts = args.pop("initial_state"), []
    for piece in ([0, 1], [1, 20], [20, 69], [69, 70]):
        cut = {n: t[:, slice(*piece)] if t.dim() > 2 else t for n, t in args.items()}
        y, state = ssd(
            **cut, initial_state=state, return_state=True, chunk_size=16, backend=backend
        )
        parts.append(y)
    assert_close({"y": torch.cat(parts, 1), "s": state}, {"y": whole, "s": last}, 1e-10)


def test_slices_of_a_projection_are_read_in_place() -> None:
    args = problem(33, heads=2, width=4, n_state=6)
    packed = torch.cat([args["x"].flatten(2), args["B"].flatten(2), args["C"].flatten(2)], -1)
    x, B, C = packed.split([8, 6, 6], dim=-1)
    views = args | {"x": x.unflatten(-1, (2, 4)), "B": B[:, :, None], "C": C[:, :, None]}
    assert not views["x"].is_contiguous()
    assert torch.equal(ssd(**views, backend="cpu"), ssd(**args, backend="cpu"))


def test_strong_decay_neither_overflows_nor_becomes_nan() -> None:
    args = problem(130, dtype=torch.float32)
    args["A"] = torch.full_like(args["A"], -1e4)
    for name, value in run_with_grads(args, "cpu", 64).items():
        assert torch.isfinite(value).all(), name
    assert_close(run_with_grads(args, "cpu", 64), run_with_grads(args, "naive"), 1e-4)


def test_rows_and_repeats_are_bitwise_equal() -> None:
    args = problem(70, batch=3, dtype=torch.float32)
    y = ssd(**args, backend="cpu")
    assert torch.equal(y, ssd(**args, backend="cpu"))
    alone = {n: t[1:2] if t.shape[0] == 3 and n not in ("A", "D") else t for n, t in args.items()}
    assert torch.equal(y[1:2], ssd(**alone, backend="cpu"))


def test_nan_stays_visible() -> None:
    args = problem(20, dtype=torch.float32)
    args["x"][0, 3] = torch.nan
    y = ssd(**args, backend="cpu")
    assert y[0, 3:].isnan().all()
    assert y[1].isfinite().all()
    assert y[0, :3].isfinite().all()


def test_half_precision_input_is_computed_in_float32() -> None:
    args = problem(40, dtype=torch.float32)
    half = args | {"x": args["x"].bfloat16()}
    y, state = ssd(**half, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    reference = ssd(**args | {"x": half["x"].float()})
    torch.testing.assert_close(y.float(), reference, rtol=1e-2, atol=1e-2)


def test_custom_ops_are_registered_correctly() -> None:
    from state_core.ops.ssd.cpu import _backward, _forward

    args = problem(10, dtype=torch.float32)
    inputs = tuple(t.requires_grad_() for t in args.values())
    torch.library.opcheck(_forward, (*inputs, 8))
    torch.library.opcheck(_forward, (*inputs[:5], None, None, 8))
    detached = tuple(t.detach() for t in inputs)
    y, final, states = _forward(*detached, 8)
    torch.library.opcheck(_backward, (y, final, *detached[:6], states, 8))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (2, 9, 15)), ("dt", (2, 9, 2)), ("A", (2,)), ("B", (2, 9, 2, 7)), ("C", (2, 8, 1, 7)),
     ("D", (1,)), ("initial_state", (2, 3, 7, 5))],
)  # fmt: skip
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=name):
        ssd(**problem(9) | {name: torch.zeros(shape)})


def test_no_token_and_no_chunk_are_refused() -> None:
    with pytest.raises(InputError, match="T >= 1"):
        ssd(**problem(0))
    with pytest.raises(InputError, match="chunk_size"):
        ssd(**problem(3), chunk_size=0)


def test_the_absent_cuda_kernel_is_named() -> None:
    with pytest.raises(BackendError, match="mamba_ssm"):
        ssd(**problem(3), backend="mamba_ssm")
    assert OP.choose("auto", "cpu")[0] == "cpu"
