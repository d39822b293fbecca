"""The chunked form on a GPU: three passes forward, four backward (see triton_kernels.py).

Forward: what each chunk adds to the state; the states handed on from chunk to chunk; the outputs.
Backward: what each chunk asks of the state that enters it; those gradients handed on, last chunk
first; dx; the other gradients. It keeps the states that enter the chunks, and makes all else again.
"""

import torch
import triton
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.specimen import Specimen
from state_core.ops.ssd import triton_kernels as kernels
from state_core.ops.ssd.autograd import connect

WARPS, STAGES = 4, 2
PASS_BLOCK = 512  # state numbers that one program hands on


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y [B,T,H,P] and the final state [B,H,P,N]; inputs in float32, bfloat16 or float16.

    A chunk has a power of 2 of 16 to 64 tokens, in float32 to 32.
    """
    if x.dtype == torch.float64:
        raise InputError("ssd: the triton backend has no float64; use cpu, chunked or naive")
    y, final, _ = _scan(x, dt, A, B, C, D, initial_state, chunk_size)
    return y, final


def _block(size: int, widest: int) -> int:
    """The block that `size` rows or columns are taken in; the matrix unit wants at least 16."""
    return max(min(triton.next_power_of_2(size), widest), 16)


def _widest(dtype: torch.dtype) -> int:
    """The widest block that fits in the registers: without the matrix unit less does."""
    return 32 if dtype == torch.float32 else 64


def _chunk(dtype: torch.dtype, chunk_size: int) -> int:
    return _block(chunk_size, _widest(dtype))


def _options(dtype: torch.dtype, chunk_size: int, P: int, N: int) -> dict[str, int]:
    widest = _widest(dtype)
    blocks = {"BLOCK_P": _block(P, widest), "BLOCK_N": _block(N, widest)}
    launch = {"num_warps": WARPS, "num_stages": STAGES}
    return {"P": P, "N": N, "CHUNK": _chunk(dtype, chunk_size), **blocks, **launch}


def _narrow_options(dtype: torch.dtype, chunk_size: int, P: int, N: int) -> dict[str, int]:
    """For the kernel that holds the most tiles at once."""
    widest = _widest(dtype) // 2
    blocks = {"BLOCK_P": _block(P, widest), "BLOCK_N": _block(N, widest)}
    warps = WARPS if dtype == torch.float32 else 2 * WARPS
    return _options(dtype, chunk_size, P, N) | blocks | {"num_warps": warps}


def _strided(tensor: Tensor) -> tuple[Tensor, int, int, int]:
    """A tensor [B,T,H,P] whose last dimension is dense, and its other strides."""
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    batch, token, head, _ = tensor.stride()
    return tensor, batch, token, head


def _states(x: Tensor, n_state: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Room for the chunks' states [B,c,H,P,N] and log decays [B,c,H]."""
    batch, length, heads, width = x.shape
    shape = (batch, -(-length // _chunk(x.dtype, chunk_size)), heads)
    states = x.new_empty(*shape, width, n_state, dtype=torch.float32)
    return states, states.new_empty(shape)


def _hand_on(states: Tensor, log_totals: Tensor, start: Tensor | None, backward: bool) -> Tensor:
    """`states` in place from what each chunk adds to what it starts from; returns the other end."""
    batch, chunks, heads, width, n_state = states.shape
    size = width * n_state
    if start is None:
        start = states.new_zeros(batch, heads, width, n_state)
    end = states.new_empty(start.shape)
    kernels.pass_states[(triton.cdiv(size, PASS_BLOCK), heads, batch)](
        states, log_totals, start.float().contiguous(), end, heads, chunks, size,
        BACKWARD=backward, BLOCK=PASS_BLOCK, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return end


@torch.library.custom_op("state_core::ssd_triton", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states that enter the chunks (for the backward pass)."""
    batch, length, heads, width = x.shape
    groups, n_state = B.shape[2:]
    states, log_totals = _states(x, n_state, chunk_size)
    chunks = states.shape[1]
    sizes = (length, heads, heads // groups, chunks)
    options = _options(x.dtype, chunk_size, width, n_state)
    dt = dt.contiguous()
    grid = (chunks, heads, batch)
    kernels.chunk_states[grid](
        *_strided(x), *_strided(B), dt, A, states, log_totals, *sizes, LEAVING=True, **options
    )
    final = _hand_on(states, log_totals, initial_state, backward=False)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    skip = torch.zeros_like(A) if D is None else D
    kernels.chunk_outputs[grid](
        *_strided(x), *_strided(B), *_strided(C), dt, A, skip, states, y, *sizes, **options
    )
    return y, final, states


@_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    states, _ = _states(x, B.shape[3], chunk_size)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, states.new_empty(states[:, 0].shape), states


@torch.library.custom_op("state_core::ssd_triton_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, dt, A, B, C, D and the initial state."""
    batch, length, heads, width = x.shape
    groups, n_state = B.shape[2:]
    leaving, log_totals = _states(x, n_state, chunk_size)
    chunks = states.shape[1]
    sizes = (length, heads, heads // groups, chunks)
    options = _options(x.dtype, chunk_size, width, n_state)
    dy, dt = dy.contiguous(), dt.contiguous()
    grid = (chunks, heads, batch)
    kernels.chunk_states[grid](
        *_strided(dy), *_strided(C), dt, A, leaving, log_totals, *sizes, LEAVING=False, **options
    )
    dinitial = _hand_on(leaving, log_totals, dfinal, backward=True)
    inputs = (dy, *_strided(x), *_strided(B), *_strided(C), dt, A)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    ddt = torch.empty_like(dt)
    dA, dD = torch.empty_like(log_totals), torch.empty_like(log_totals)
    dB, dC = (leaving.new_empty(batch, length, heads, n_state) for _ in range(2))
    skip = torch.zeros_like(A) if D is None else D
    kernels.input_grads[grid](*inputs, skip, leaving, dx, dD, *sizes, **options)
    narrow = _narrow_options(x.dtype, chunk_size, width, n_state)
    kernels.other_grads[grid](*inputs, states, leaving, ddt, dA, dB, dC, *sizes, **narrow)
    by_group = (groups, heads // groups)
    return (
        dx,
        ddt,
        dA.sum((0, 1)).to(A.dtype),
        dB.unflatten(2, by_group).sum(3).to(B.dtype),
        dC.unflatten(2, by_group).sum(3).to(C.dtype),
        dD.sum((0, 1)).to(skip.dtype),
        dinitial,
    )


@_scan_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dense = torch.contiguous_format
    dx, ddt, dA, dB, dC = (torch.empty_like(t, memory_format=dense) for t in (x, dt, A, B, C))
    dD = (A if D is None else D).new_empty(A.shape)
    return dx, ddt, dA, dB, dC, dD, states.new_empty(states[:, 0].shape)


connect(_scan, _scan_backward)


def _specimen(name: str, kernel: triton.JITFunction, dtype: str, **constants: int) -> Specimen:
    """A kernel as it is launched for heads of 64, a state of 64 and chunks of 64."""
    low = ("x", "B", "C", "y", "dy", "dx")
    sizes = ("T", "heads", "heads_per_group", "chunks", "size")
    strides = (f"{t}_{axis}" for t in "xBC" for axis in ("batch", "token", "head"))
    chosen = _narrow_options if kernel is kernels.other_grads else _options
    constants |= chosen(getattr(torch, dtype), 64, 64, 64) | {"BLOCK": PASS_BLOCK}
    kinds = dict.fromkeys(low, f"*{_TRITON[dtype]}") | dict.fromkeys((*sizes, *strides), "i32")
    kinds |= dict.fromkeys(constants, "constexpr")
    return Specimen(
        name=f"{name} {dtype}",
        kernel=kernel,
        signature={argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names},
        constants={n: v for n, v in constants.items() if n in kernel.arg_names},
        warps=constants["num_warps"],
        stages=STAGES,
        matrix_unit=dtype != "float32" and kernel is not kernels.pass_states,
    )


_TRITON = {"bfloat16": "bf16", "float32": "fp32"}

SPECIMENS = (
    *(
        specimen
        for dtype in _TRITON
        for specimen in (
            _specimen("chunk states", kernels.chunk_states, dtype, LEAVING=True),
            _specimen("chunk outputs", kernels.chunk_outputs, dtype),
            _specimen("input gradients", kernels.input_grads, dtype),
            _specimen("other gradients", kernels.other_grads, dtype),
        )
    ),
    _specimen("passing", kernels.pass_states, "float32", BACKWARD=False),
)
