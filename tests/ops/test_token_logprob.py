"""Log-probabilities of targets: the chunked op against all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from state_core.errors import InputError
from state_core.ops.token_logprob import chunked, softmax, token_logprob


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tokens a chunk at a vocabulary of 37, so that small inputs have several, and a rest."""
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", 4 * 4 * 37)


def example(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    h = torch.randn(tokens, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(37, 6, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 37, (tokens,))
    targets[1::3] = -100
    return h, weight, targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [0, 1, 2, 4, 63, 65])
def test_chunked_equals_the_reference(tokens: int, dtype: torch.dtype) -> None:
    h, weight, targets = example(tokens, dtype)
    scale = torch.randn(tokens, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    results = []
    for backend in ("chunked", "naive"):
        value = token_logprob(h, weight, targets, backend=backend)
        results.append((value, *torch.autograd.grad((value * scale).sum(), (h, weight))))
    for got, expected in zip(*results, strict=True):
        assert torch.isfinite(got).all()
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_of_any_width(vocabulary: int, dtype: torch.dtype) -> None:
    logits = 20 * torch.randn(5, vocabulary, dtype=dtype)
    mass = softmax.log_sum_exp(logits)
    torch.testing.assert_close(mass, logits.logsumexp(-1))
    expected = logits.softmax(-1)
    shares = softmax.probabilities(logits, mass)
    assert shares.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(shares, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("column", [0, 3, 32, 36])
def test_not_a_number_stays(column: int) -> None:
    logits = torch.randn(2, 37)
    logits[1, column] = torch.nan
    assert softmax.log_sum_exp(logits).isnan().tolist() == [False, True]


def test_mean_is_cross_entropy() -> None:
    h, weight, targets = example(33)
    wanted = F.cross_entropy(h @ weight.T, targets, reduction="sum")
    got = -token_logprob(h, weight, targets).sum()
    torch.testing.assert_close(got, wanted)
    for a, b in zip(
        torch.autograd.grad(got, (h, weight)), torch.autograd.grad(wanted, (h, weight)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradient_by_differences() -> None:
    h, weight, targets = example(9)
    assert torch.autograd.gradcheck(lambda a, b: token_logprob(a, b, targets), (h, weight))


@pytest.mark.parametrize("backend", ["chunked", "naive"])
def test_negative_targets_give_zero_and_no_gradient(backend: str) -> None:
    h, weight, targets = example(7)
    value = token_logprob(h, weight, torch.full_like(targets, -1), backend=backend)
    value.sum().backward()
    for zero in (value, h.grad, weight.grad):
        assert zero is not None
        assert not zero.any()


@pytest.mark.parametrize("backend", ["chunked", "naive"])
def test_large_logits_do_not_overflow(backend: str) -> None:
    h, weight, targets = example(5, torch.float32)
    value = token_logprob(h * 1e3, weight, targets, backend=backend)
    assert torch.isfinite(value).all()
    assert (value <= 0).all()


class _LargestTensor(TorchDispatchMode):
    """The entries of the largest tensor made by any operator within the block."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize(("backend", "rows"), [("chunked", 4), ("naive", 65)])
def test_logits_are_held_by_the_chunk(backend: str, rows: int) -> None:
    h, weight, targets = (x.detach() for x in example(65))
    operation = chunked._forward._init_fn if backend == "chunked" else None
    with _LargestTensor() as largest:
        if operation:  # the mode does not look inside a custom op
            _, mass = operation(h, weight, targets)
            chunked._backward._init_fn(torch.ones(65, dtype=h.dtype), h, weight, targets, mass)
        else:
            token_logprob(h, weight, targets, backend=backend)
    assert largest.entries == max(rows * 37, 65 * 6)


def test_rows_do_not_depend_on_their_chunk() -> None:
    h, weight, targets = example(65, torch.float64)
    together = token_logprob(h, weight, targets)
    for row in (0, 5, 64):
        alone = token_logprob(h[row : row + 1], weight, targets[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_same_bits_twice() -> None:
    h, weight, targets = example(65, torch.float32)
    runs = []
    for _ in range(2):
        value = token_logprob(h, weight, targets)
        runs.append((value, *torch.autograd.grad(value.sum(), (h, weight))))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_autocast_multiplies_in_bf16_and_takes_the_softmax_in_fp32() -> None:
    h, weight, targets = example(33, torch.float32)
    exact = token_logprob(h, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        value = token_logprob(h, weight, targets)
        reference = token_logprob(h, weight, targets, backend="naive")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-6)
    assert float((value - exact).abs().max()) > 1e-3
    torch.testing.assert_close(value, exact, rtol=0.05, atol=0.1)
    got = torch.autograd.grad(value.sum(), (h, weight))
    wanted = torch.autograd.grad(exact.sum(), (h, weight))
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_transposed_inputs() -> None:
    h, weight, targets = example(9)
    wanted = token_logprob(h, weight, targets)
    strided = h.detach().T.contiguous().T.requires_grad_()
    value = token_logprob(strided, weight.T.contiguous().T, targets)
    torch.testing.assert_close(value, wanted)
    gradients = torch.autograd.grad(value.sum(), strided) + torch.autograd.grad(wanted.sum(), h)
    torch.testing.assert_close(*gradients)


def test_custom_op_is_registered_soundly() -> None:
    h, weight, targets = example(9)
    torch.library.opcheck(chunked._forward, (h, weight, targets))
    h, weight = h.detach(), weight.detach()
    gradient, (_, mass) = torch.randn(9, dtype=torch.float64), chunked._forward(h, weight, targets)
    torch.library.opcheck(chunked._backward, (gradient, h, weight, targets, mass))


def test_compiled_gives_the_same_numbers() -> None:
    h, weight, targets = example(9)
    wanted = token_logprob(h, weight, targets).mean()
    loss = torch.compile(
        lambda a, b: token_logprob(a, b, targets).mean(), backend="aot_eager", fullgraph=True
    )(h, weight)
    torch.testing.assert_close(loss, wanted)
    for a, b in zip(
        torch.autograd.grad(loss, (h, weight)),
        torch.autograd.grad(wanted, (h, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["chunked", "naive"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.randn(5, 7)}, r"h \[N, r\] and weight \[V, r\]"),
        ({"h": torch.randn(6)}, r"h \[N, r\] and weight \[V, r\]"),
        ({"weight": torch.randn(37, 6).double()}, "one floating dtype"),
        ({"targets": torch.zeros(5, dtype=torch.int32)}, r"targets \[5\] int64"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"targets \[5\] int64"),
        ({"targets": torch.tensor([0, 1, 37, 2, 3])}, "below 37, got 37"),
    ],
)
def test_bad_input_is_refused(change: dict[str, torch.Tensor], message: str, backend: str) -> None:
    inputs = {"h": torch.randn(5, 6), "weight": torch.randn(37, 6)}
    inputs["targets"] = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        token_logprob(**(inputs | change), backend=backend)
