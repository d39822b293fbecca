"""The scan on a GPU: a program owns some channels and walks over the tokens in chunks, within which
an associative scan runs over all tokens at once.

Shapes: B batch, T tokens, C channels, N state, c chunks of Q = CHUNK tokens. A tile is
[Q,N,BLOCK_C] and never leaves the registers. Forward keeps the state that enters each chunk,
[B,c,C,N]; backward takes the chunks from the last to the first and scans each again.

With the decay a_t = exp(delta_t A) and g_t the gradient of the state S_t,

    S_t = a_t S_{t-1} + delta_t u_t B_t             g_t = dy_t C_t + a_{t+1} g_{t+1}

Both are scans of pairs (decay, what is added). Backward also wants S_{t-1}: it scans the pairs of
the tokens before. Decays are made anew wherever they are needed, which is cheaper than moving them
from token to token. Sums over channels (dB, dC) leave a program as its share, and torch adds up.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.selective_scan.autograd import connect
from state_core.ops.specimen import Specimen

CHUNK = 16
TILE = 256  # channels x states of a program
WARPS, STAGES = 8, 2
_LN2 = tl.constexpr(0.6931471805599453)
_LOG2_E = tl.constexpr(1.4426950408889634)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y [B,T,C] and the final state [B,C,N]; inputs in float32, bfloat16 or float16."""
    if u.dtype == torch.float64:
        raise InputError("selective_scan: the triton backend has no float64; use cpu or naive")
    y, final, _ = _scan(u, delta, A, B, C, D, initial_state)
    return y, final


def _sizes(channels: int, n_state: int) -> tuple[int, int, int]:
    """BLOCK_N, BLOCK_C and how many blocks the channels make."""
    block_n = triton.next_power_of_2(n_state)
    block_c = max(TILE // block_n, 1)
    return block_n, block_c, triton.cdiv(channels, block_c)


def _states(state: Tensor | None, u: Tensor, n_state: int) -> Tensor:
    """A state [B,C,N], or zeros, in float32."""
    if state is not None:
        return state.float().contiguous()
    return u.new_zeros(u.shape[0], u.shape[2], n_state, dtype=torch.float32)


def _skip(D: Tensor | None, A: Tensor) -> Tensor:
    return A.new_zeros(A.shape[0]) if D is None else D.contiguous()


@torch.library.custom_op("state_core::selective_scan_triton", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states that enter the chunks (for the backward pass)."""
    (batch, length, channels), n_state = u.shape, A.shape[1]
    block_n, block_c, blocks = _sizes(channels, n_state)
    chunks = triton.cdiv(length, CHUNK)
    initial = _states(initial_state, u, n_state)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    final, entering = torch.empty_like(initial), initial.new_empty(batch, chunks, channels, n_state)
    _forward[(blocks, batch)](
        u.contiguous(), delta.contiguous(), A.contiguous(), B.contiguous(), C.contiguous(),
        _skip(D, A), initial, y, final, entering, length, channels, n_state, chunks,
        CHUNK=CHUNK, BLOCK_N=block_n, BLOCK_C=block_c, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return y, final, entering


@_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, channels), n_state = u.shape, A.shape[1]
    final = u.new_empty(batch, channels, n_state, dtype=torch.float32)
    entering = final.new_empty(batch, -(-length // CHUNK), channels, n_state)
    return torch.empty_like(u, memory_format=torch.contiguous_format), final, entering


@torch.library.custom_op("state_core::selective_scan_triton_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    entering: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of u, delta, A, B, C, D and the initial state."""
    (batch, length, channels), n_state = u.shape, A.shape[1]
    block_n, block_c, blocks = _sizes(channels, n_state)
    dfinal = _states(dfinal, u, n_state)
    du, ddelta = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (u, delta))
    dinitial, dA = torch.empty_like(dfinal), torch.empty_like(dfinal)
    dB, dC = (dfinal.new_empty(batch, blocks, length, n_state) for _ in range(2))
    dD = dfinal.new_empty(batch, channels)
    _backward[(blocks, batch)](
        dy.contiguous(), u.contiguous(), delta.contiguous(), A.contiguous(), B.contiguous(),
        C.contiguous(), _skip(D, A), entering, dfinal, du, ddelta, dA, dB, dC, dD, dinitial,
        length, channels, n_state, entering.shape[1],
        CHUNK=CHUNK, BLOCK_N=block_n, BLOCK_C=block_c, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    skip = A if D is None else D
    sums = (
        dA.sum(0).to(A.dtype), dB.sum(1).to(B.dtype), dC.sum(1).to(C.dtype),
        dD.sum(0).to(skip.dtype),
    )  # fmt: skip
    return du, ddelta, *sums, dinitial


@_scan_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    entering: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dense = torch.contiguous_format
    du, ddelta, dA, dB, dC = (torch.empty_like(t, memory_format=dense) for t in (u, delta, A, B, C))
    dD = (A if D is None else D).new_empty(A.shape[0])
    return du, ddelta, dA, dB, dC, dD, entering.new_empty(u.shape[0], *A.shape)


connect(_scan, _scan_backward)


@triton.jit
def _combine(decay, added, next_decay, next_added):
    """One stretch of tokens after another: how much is kept, and what is added."""
    return decay * next_decay, next_decay * added + next_added


@triton.jit
def _rows(x, line, width, column, mask):
    """Rows [Q] by columns of a row-major table, in float32, zeros where masked."""
    return tl.load(x + line[:, None] * width + column[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    u, delta, A, B, C, D, initial, y, final, entering, T, channels, n_state, chunks,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    real_c, real_n = c[None, :] < channels, n[None, :] < n_state
    place = c[None, :] * n_state + n[:, None]
    real = real_c & (n[:, None] < n_state)
    log_a = tl.load(A + place, mask=real, other=0.0).to(tl.float32) * _LOG2_E
    skip = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    state = tl.load(initial + b * channels * n_state + place, mask=real, other=0.0)
    row = tl.arange(0, CHUNK)
    for k in range(chunks):
        tl.store(entering + (b * chunks + k) * channels * n_state + place, state, mask=real)
        t = k * CHUNK + row
        inside = t[:, None] < T
        line = b * T + t
        value = _rows(u, line, channels, c, inside & real_c)
        step = _rows(delta, line, channels, c, inside & real_c)
        key = _rows(B, line, n_state, n, inside & real_n)
        query = _rows(C, line, n_state, n, inside & real_n)
        decay = tl.exp2(step[:, None, :] * log_a[None, :, :])
        written = (step * value)[:, None, :] * key[:, :, None]
        kept, added = tl.associative_scan((decay, written), 0, _combine)
        states = added + kept * state[None, :, :]
        out = tl.sum(states * query[:, :, None], 1) + skip[None, :] * value
        tl.store(y + line[:, None] * channels + c[None, :], out, mask=inside & real_c)
        state = tl.sum(tl.where(row[:, None, None] == CHUNK - 1, states, 0.0), 0)
    tl.store(final + b * channels * n_state + place, state, mask=real)


@triton.jit
def _backward(
    dy, u, delta, A, B, C, D, entering, dfinal, du, ddelta, dA, dB, dC, dD, dinitial,
    T, channels, n_state, chunks,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dA [B,C,N] and dD [B,C] are a batch row's share, dB and dC [B,blocks,T,N] a program's."""
    b = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    real_c, real_n = c[None, :] < channels, n[None, :] < n_state
    place = c[None, :] * n_state + n[:, None]
    real = real_c & (n[:, None] < n_state)
    log_a = tl.load(A + place, mask=real, other=0.0).to(tl.float32) * _LOG2_E
    skip = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    leaving = tl.load(dfinal + b * channels * n_state + place, mask=real, other=0.0)
    dlog_a = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    dskip = tl.zeros([BLOCK_C], dtype=tl.float32)
    row = tl.arange(0, CHUNK)
    for k in range(chunks - 1, -1, -1):
        t = k * CHUNK + row
        inside = t[:, None] < T
        line = b * T + t

        # The gradients of the states, from the chunk's last token back.
        grad = _rows(dy, line, channels, c, inside & real_c)
        query = _rows(C, line, n_state, n, inside & real_n)
        step = _rows(delta, line + 1, channels, c, (t[:, None] + 1 < T) & real_c)
        decay = tl.exp2(step[:, None, :] * log_a[None, :, :])
        asked = grad[:, None, :] * query[:, :, None]
        kept, added = tl.associative_scan((decay, asked), 0, _combine, reverse=True)
        now = added + kept * leaving[None, :, :]
        leaving = tl.sum(tl.where(row[:, None, None] == 0, now, 0.0), 0)

        # The states before each token: a scan of the tokens before it, from the chunk's first on.
        earlier = (row[:, None] > 0) & (t[:, None] <= T)
        value = _rows(u, line - 1, channels, c, earlier & real_c)
        step = _rows(delta, line - 1, channels, c, earlier & real_c)
        key = _rows(B, line - 1, n_state, n, earlier & real_n)
        decay = tl.exp2(step[:, None, :] * log_a[None, :, :])
        written = (step * value)[:, None, :] * key[:, :, None]
        kept, added = tl.associative_scan((decay, written), 0, _combine)
        first = (b * chunks + k) * channels * n_state
        state = tl.load(entering + first + place, mask=real, other=0.0)
        before = added + kept * state[None, :, :]

        value = _rows(u, line, channels, c, inside & real_c)
        step = _rows(delta, line, channels, c, inside & real_c)
        key = _rows(B, line, n_state, n, inside & real_n)
        lasting = tl.exp2(step[:, None, :] * log_a[None, :, :]) * before
        written = step * value
        share = ((b * tl.num_programs(0) + tl.program_id(0)) * T + t)[:, None] * n_state + n[
            None, :
        ]
        after = lasting + written[:, None, :] * key[:, :, None]
        dquery = tl.sum(after * grad[:, None, :], 2)
        tl.store(dC + share, dquery, mask=inside & real_n)
        dkey = tl.sum(now * written[:, None, :], 2)
        tl.store(dB + share, dkey, mask=inside & real_n)
        dwritten = tl.sum(now * key[:, :, None], 1)
        dlog = now * lasting
        dstep = dwritten * value + tl.sum(dlog * log_a[None, :, :], 1) * _LN2
        at = line[:, None] * channels + c[None, :]
        tl.store(du + at, dwritten * step + skip[None, :] * grad, mask=inside & real_c)
        tl.store(ddelta + at, dstep, mask=inside & real_c)
        dlog_a += tl.sum(dlog * step[:, None, :], 0)
        dskip += tl.sum(grad * value, 0)
    first_step = tl.load(delta + b * T * channels + c, mask=c < channels, other=0.0).to(tl.float32)
    leaving = leaving * tl.exp2(first_step[None, :] * log_a)
    tl.store(dinitial + b * channels * n_state + place, leaving, mask=real)
    tl.store(dA + b * channels * n_state + place, dlog_a, mask=real)
    tl.store(dD + b * channels + c, dskip, mask=c < channels)


def _specimen(name: str, kernel: triton.JITFunction, dtype: str) -> Specimen:
    low = ("u", "delta", "B", "C", "y", "dy", "du", "ddelta")
    integers = ("T", "channels", "n_state", "chunks")
    blocks = {"CHUNK": CHUNK, "BLOCK_N": 16, "BLOCK_C": TILE // 16}
    kinds = dict.fromkeys(low, f"*{dtype}") | dict.fromkeys(integers, "i32")
    kinds |= dict.fromkeys(blocks, "constexpr")
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names}
    return Specimen(name, kernel, signature, blocks, WARPS, STAGES)


SPECIMENS = (
    _specimen("forward", _forward, "bf16"),
    _specimen("forward float32", _forward, "fp32"),
    _specimen("backward", _backward, "bf16"),
    _specimen("backward float32", _backward, "fp32"),
)
