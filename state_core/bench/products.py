"""The bare matrix products that an op or a model consists of: the time that arithmetic alone takes.

Each function returns a call that multiplies random matrices of the op's shapes into buffers made
beforehand, forward and backward, in as few and as large products as the maths allows.

Shapes: N tokens, V vocabulary, r rank; B batch, c chunks of Q tokens, H heads, G groups, P head
width, S state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.bench.case import Thunk


def head_products(tokens: int, vocabulary: int, rank: int, device: torch.device) -> Thunk:
    """h Wᵀ, and the two products of its gradients: [N,r]·[r,V], [N,V]·[V,r], [V,N]·[N,r]."""
    return _calls([(1, tokens, rank, vocabulary), (1, tokens, vocabulary, rank),
                   (1, vocabulary, tokens, rank)], device)  # fmt: skip


def scan_products(
    batch: int, length: int, heads: int, groups: int, width: int, state: int, chunk: int,
    device: torch.device,
) -> Thunk:  # fmt: skip
    """The four products of the SSD's chunked form, and two for each in the backward.

    Heads of a group share B and C, so their columns stand side by side in one product; the chunk's
    own Q x Q products are a head's. Nothing is computed twice, though a backward that
    saves memory must.
    """
    blocks = batch * -(-length // chunk)
    side = heads // groups * width
    scores = [(blocks * groups, chunk, state, chunk)] + 2 * [(blocks * groups, chunk, chunk, state)]
    within = 2 * [(blocks * heads, chunk, chunk, width)] + [(blocks * heads, chunk, width, chunk)]
    own = [(blocks * groups, side, chunk, state), (blocks * groups, chunk, state, side)]
    own += [(blocks * groups, chunk, side, state)]
    passed = [(blocks * groups, chunk, state, side), (blocks * groups, chunk, side, state)]
    passed += [(blocks * groups, state, chunk, side)]
    return _calls(scores + within + own + passed, device)


def _calls(shapes: list[tuple[int, int, int, int]], device: torch.device) -> Thunk:
    """Products [n, a, b] · [n, b, c] of the given (n, a, b, c)."""
    triples: list[tuple[Tensor, Tensor, Tensor]] = [
        (
            torch.randn(n, a, b, device=device),
            torch.randn(n, b, c, device=device),
            torch.empty(n, a, c, device=device),
        )
        for n, a, b, c in shapes
    ]

    def run() -> None:
        for left, right, out in triples:
            torch.bmm(left, right, out=out)

    return run
