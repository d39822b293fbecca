"""The ops' cases: our kernels against what a user would pick instead.

Shapes: B batch, T tokens, H heads, D head width, E edges of a row, d width of the compared states,
K neighbours, P head width and N state of the SSD, C channels, W taps, V vocabulary, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench import peers
from state_core.bench.case import (
    OURS,
    Case,
    Comparison,
    Contender,
    Goal,
    Shape,
    Thunk,
    compare,
    installed,
)

Inputs = dict[str, Tensor]
Call = Callable[..., Any]  # tensors in, one tensor out


def forward_backward(call: Call, *names: str, wrt: tuple[str, ...]) -> Callable[[Inputs], Thunk]:
    """A contender that calls on the named inputs and takes the gradient in those of `wrt`."""

    def prepare(inputs: Inputs) -> Thunk:
        return lambda: with_gradients(call, inputs, names, wrt)

    return prepare


def with_gradients(
    call: Call, inputs: Inputs, names: tuple[str, ...], wrt: tuple[str, ...]
) -> tuple[Tensor, ...]:
    """The output, and its gradients along inputs["grad"] in those of `wrt`."""
    out = call(*(inputs[name] for name in names))
    return out, *torch.autograd.grad(out, [inputs[name] for name in wrt], inputs["grad"])


def naive(op: Callable[..., Any]) -> Call:
    """The op's reference implementation."""
    return lambda *args: op(*args, backend="naive")


def normal(seed: int, device: torch.device, *shape: int) -> Tensor:
    """A standard normal leaf tensor, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device).requires_grad_()


def spread_rows(batch: int, length: int, edges: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of distinct causal neighbours drawn evenly over the whole past: the least local, and so
    the hardest, rows for a cache. A row has min(edges, past and itself) of them.

    Returns neighbors [B,T,E] and counts [B,T], both int32.
    """
    generator = torch.Generator().manual_seed(0)
    past = torch.arange(1, length + 1)
    counts = past.clamp(max=edges)
    stratum = torch.arange(edges).expand(length, edges)
    low = stratum * past[:, None] // counts[:, None]
    high = (stratum + 1) * past[:, None] // counts[:, None]
    draw = torch.rand(batch, length, edges, generator=generator)
    neighbors = (low + (draw * (high - low)).long()).where(stratum < counts[:, None], 0)
    return (
        neighbors.to(device, torch.int32),
        counts.expand(batch, length).contiguous().to(device, torch.int32),
    )


# --- graph_attention -------------------------------------------------------------------------

QKV = ("q", "k", "v")
ROWS = (*QKV, "neighbors", "counts")


def _attention_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (shape["B"], shape["H"], shape["T"], shape["D"])
    neighbors, counts = spread_rows(shape["B"], shape["T"], shape["E"], device)
    tensors = {name: normal(i, device, *size) for i, name in enumerate((*QKV, "grad"))}
    return {**tensors, "neighbors": neighbors, "counts": counts}


def _attention_check(device: torch.device) -> list[Comparison]:
    few = _attention_inputs({"B": 2, "T": 65, "H": 2, "D": 16, "E": 8}, device)
    every = _attention_inputs({"B": 1, "T": 63, "H": 2, "D": 16, "E": 63}, device)
    ours = with_gradients(ops.graph_attention, few, ROWS, QKV)
    reference = with_gradients(naive(ops.graph_attention), few, ROWS, QKV)
    full = with_gradients(ops.graph_attention, every, ROWS, QKV)
    dense = with_gradients(peers.dense_attention, every, QKV, QKV)
    return [compare("naive", ours, reference), compare("sdpa, with every edge", full, dense)]


Case(
    name="graph_attention",
    group="ops",
    about="attention over E edges a row, forward and backward, against all causal pairs",
    sizes=tuple({"B": 1, "T": t, "H": 8, "D": 64, "E": 64} for t in (1024, 4096, 16384)),
    quick=tuple({"B": 1, "T": t, "H": 2, "D": 16, "E": 16} for t in (128, 256)),
    inputs=_attention_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.graph_attention, *ROWS, wrt=QKV)),
        Contender("sdpa", forward_backward(peers.dense_attention, *QKV, wrt=QKV)),
    ),
    check=_attention_check,
    goals=(
        Goal("sdpa", least=6, at=4096),
        Goal("sdpa", least=15, at=16384),
        Goal("memory growth", most=1.1),
    ),
)


# --- causal_topk -----------------------------------------------------------------------------


def _topk_inputs(shape: Shape, device: torch.device) -> dict[str, Any]:
    u = normal(0, device, shape["T"], shape["d"]).detach()
    return {"u": F.normalize(u, dim=-1), "k": shape["K"]}


def _topk_check(device: torch.device) -> list[Comparison]:
    """Compares scores: among equal scores the peers choose other indices."""
    k = 8
    u = _topk_inputs({"T": 130, "d": 24, "K": k}, device)["u"]
    _, ours = ops.causal_topk(u[None], k)
    _, naive = ops.causal_topk(u[None], k, backend="naive")
    _, tiles = peers.torch_topk(u, k, tile=48)
    checks = [  # the first k rows hold −inf
        compare("naive", (ours[0, k:],), (naive[0, k:],)),
        compare("torch tiles", (ours[0, k:],), (tiles[k:],)),
    ]
    if device.type == "cpu" and installed("faiss"):
        after_all = torch.full((1, len(u)), len(u))  # rows that see every key, as faiss's do
        _, everything = ops.causal_topk(u[None], k, positions=after_all)
        _, exact = peers.faiss_knn(u, u, k)
        checks.append(compare("faiss, over all keys", (everything[0],), (exact,)))
    return checks


Case(
    name="causal_topk",
    group="ops",
    about="the K most similar earlier states of every state, exact",
    sizes=(
        {"T": 4096, "d": 12, "K": 16},
        {"T": 4096, "d": 64, "K": 16},
        {"T": 8192, "d": 64, "K": 16},
        {"T": 16384, "d": 64, "K": 16},
    ),
    quick=tuple({"T": t, "d": 12, "K": 4} for t in (256, 512)),
    inputs=_topk_inputs,
    contenders=(
        Contender(OURS, lambda x: lambda: ops.causal_topk(x["u"][None], x["k"])),
        Contender(
            "faiss", lambda x: lambda: peers.faiss_knn(x["u"], x["u"], x["k"]), "faiss", ("cpu",)
        ),
        Contender("torch tiles", lambda x: lambda: peers.torch_topk(x["u"], x["k"])),
    ),
    check=_topk_check,
    goals=(Goal("faiss", least=1, at=16384), Goal("memory growth", most=1.1)),
)


# --- ssd -------------------------------------------------------------------------------------

SCAN = ("x", "dt", "A", "B", "C")


def _scan_inputs(shape: Shape, device: torch.device) -> Inputs:
    batch, length, heads = shape["B"], shape["T"], shape["H"]
    return {
        "x": normal(0, device, batch, length, heads, shape["P"]),
        "dt": _leaf(0.1 * F.softplus(normal(1, device, batch, length, heads))),
        "A": _leaf(-normal(2, device, heads).exp()),
        "B": normal(3, device, batch, length, 1, shape["N"]),
        "C": normal(4, device, batch, length, 1, shape["N"]),
        "grad": normal(5, device, batch, length, heads, shape["P"]),
    }


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _scan_check(device: torch.device) -> list[Comparison]:
    inputs = _scan_inputs({"B": 2, "T": 65, "H": 2, "P": 16, "N": 16}, device)
    ours = with_gradients(ops.ssd, inputs, SCAN, SCAN)
    trusted = {"naive": naive(ops.ssd)}
    trusted |= {"mambapy": peers.mambapy_scan} if installed("mambapy") else {}
    trusted |= {"transformers": peers.transformers_scan} if installed("transformers") else {}
    return [
        compare(name, ours, with_gradients(call, inputs, SCAN, SCAN), 1e-3)
        for name, call in trusted.items()
    ]


Case(
    name="ssd",
    group="ops",
    about="the Mamba-2 scan, forward and backward",
    sizes=tuple({"B": 8, "T": t, "H": 8, "P": 64, "N": 64} for t in (128, 256, 512)),
    quick=tuple({"B": 1, "T": t, "H": 2, "P": 16, "N": 16} for t in (64, 128)),
    inputs=_scan_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.ssd, *SCAN, wrt=SCAN)),
        Contender("mambapy", forward_backward(peers.mambapy_scan, *SCAN, wrt=SCAN), "mambapy"),
        Contender(
            "transformers",
            forward_backward(peers.transformers_scan, *SCAN, wrt=SCAN),
            "transformers",
        ),
    ),
    check=_scan_check,
    goals=(
        Goal("mambapy", least=15, at=512),
        Goal("transformers", least=2, at=512),
        Goal("memory growth", most=1.1),
    ),
)


# --- edge_scores -----------------------------------------------------------------------------

EDGES = ("u", "neighbors", "counts")


def _edge_inputs(shape: Shape, device: torch.device) -> Inputs:
    neighbors, counts = spread_rows(shape["B"], shape["T"], shape["E"], device)
    return {
        "u": normal(0, device, shape["B"], shape["T"], shape["d"]),
        "neighbors": neighbors,
        "counts": counts,
        "grad": normal(1, device, shape["B"], shape["T"], shape["E"]),
    }


def _edge_check(device: torch.device) -> list[Comparison]:
    inputs = _edge_inputs({"B": 2, "T": 65, "E": 9, "d": 12}, device)
    ours = with_gradients(ops.edge_scores, inputs, EDGES, ("u",))
    return [
        compare(name, ours, with_gradients(call, inputs, EDGES, ("u",)))
        for name, call in (
            ("naive", naive(ops.edge_scores)),
            ("gather + einsum", peers.gathered_scores),
        )
    ]


Case(
    name="edge_scores",
    group="ops",
    about="differentiable similarity of the chosen edges, forward and backward",
    sizes=tuple({"B": 1, "T": t, "E": 16, "d": 12} for t in (4096, 16384)),
    quick=tuple({"B": 1, "T": t, "E": 4, "d": 12} for t in (64, 128)),
    inputs=_edge_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.edge_scores, *EDGES, wrt=("u",))),
        Contender("gather + einsum", forward_backward(peers.gathered_scores, *EDGES, wrt=("u",))),
    ),
    check=_edge_check,
)


# --- causal_conv1d ---------------------------------------------------------------------------

CONV = ("x", "weight", "bias")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, backend: str = "auto") -> Any:
    return ops.causal_conv1d(x, weight, bias, activation="silu", backend=backend)


def _conv_inputs(shape: Shape, device: torch.device) -> Inputs:
    size = (shape["B"], shape["T"], shape["C"])
    return {
        "x": normal(0, device, *size),
        "weight": normal(1, device, shape["C"], shape["W"]),
        "bias": normal(2, device, shape["C"]),
        "grad": normal(3, device, *size),
    }


def _conv_check(device: torch.device) -> list[Comparison]:
    inputs = _conv_inputs({"B": 2, "T": 65, "C": 24, "W": 4}, device)
    ours = with_gradients(_convolve, inputs, CONV, CONV)
    return [
        compare(name, ours, with_gradients(call, inputs, CONV, CONV))
        for name, call in (("naive", naive(_convolve)), ("nn.Conv1d", peers.torch_conv))
    ]


Case(
    name="causal_conv1d",
    group="ops",
    about="the short causal convolution of Mamba layers with SiLU, forward and backward",
    sizes=({"B": 8, "T": 512, "C": 512, "W": 4}, {"B": 8, "T": 1024, "C": 512, "W": 4}),
    quick=tuple({"B": 1, "T": t, "C": 32, "W": 4} for t in (64, 128)),
    inputs=_conv_inputs,
    contenders=(
        Contender(OURS, forward_backward(_convolve, *CONV, wrt=CONV)),
        Contender("nn.Conv1d", forward_backward(peers.torch_conv, *CONV, wrt=CONV)),
    ),
    check=_conv_check,
)


# --- token_logprob ---------------------------------------------------------------------------

HEAD = ("h", "weight", "targets")


def _head_inputs(shape: Shape, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(shape["V"], (shape["N"],), generator=generator)
    return {
        "h": normal(0, device, shape["N"], shape["r"]),
        "weight": normal(1, device, shape["V"], shape["r"]),
        "targets": targets.to(device),
        "grad": normal(3, device, shape["N"]),
    }


def _head_check(device: torch.device) -> list[Comparison]:
    inputs = _head_inputs({"N": 65, "V": 130, "r": 12}, device)
    ours = with_gradients(ops.token_logprob, inputs, HEAD, HEAD[:2])
    return [
        compare(name, ours, with_gradients(call, inputs, HEAD, HEAD[:2]))
        for name, call in (
            ("naive", naive(ops.token_logprob)),
            ("cross_entropy", peers.full_logprob),
        )
    ]


Case(
    name="token_logprob",
    group="ops",
    about="log-probability of the targets through a tied head, forward and backward",
    sizes=tuple({"N": n, "V": 4096, "r": 96} for n in (4096, 16384)),
    quick=tuple({"N": n, "V": 256, "r": 16} for n in (64, 128)),
    inputs=_head_inputs,
    contenders=(
        Contender(OURS, forward_backward(ops.token_logprob, *HEAD, wrt=HEAD[:2])),
        Contender("cross_entropy", forward_backward(peers.full_logprob, *HEAD, wrt=HEAD[:2])),
    ),
    check=_head_check,
    axis="N",
)
