"""Exact nearest earlier states.

Shapes: T tokens, d width of the states, K neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import ops
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, compare, installed
from state_core.bench.inputs import normal
from state_core.bench.timing import Spread, interleave, ratios

PRODUCT_TILE = 256  # rows; the fastest of 128 … 2048 on a CPU
FIRST_APPROXIMATE = 4096  # below, nobody would approximate


def _topk_inputs(shape: Shape, device: torch.device) -> dict[str, Any]:
    u = normal(0, device, shape["T"], shape["d"]).detach()
    return {"u": F.normalize(u, dim=-1), "k": shape["K"]}


def _topk_check(device: torch.device) -> list[Comparison]:
    """Compares scores: among equal scores the peers choose other indices."""
    k = 8
    u = _topk_inputs({"T": 130, "d": 24, "K": k}, device)["u"]
    _, ours = ops.causal_topk(u[None], k)
    _, naive = ops.causal_topk(u[None], k, backend="naive")
    _, tiles = torch_topk(u, k, tile=48)
    checks = [  # the first k rows hold −inf
        compare("naive", (ours[0, k:],), (naive[0, k:],)),
        compare("torch tiles", (ours[0, k:],), (tiles[k:],)),
    ]
    if device.type == "cpu" and installed("faiss"):
        after_all = torch.full((1, len(u)), len(u))  # rows that see every key, as faiss's do
        _, everything = ops.causal_topk(u[None], k, positions=after_all)
        _, exact = faiss_knn(u, u, k)
        checks.append(compare("faiss, over all keys", (everything[0],), (exact,)))
    return checks


def faiss_knn(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact, not causal, inner-product neighbours of queries [T,d] among keys [S,d]."""
    import faiss

    scores, indices = faiss.knn(queries.numpy(), keys.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(indices), torch.from_numpy(scores)


def causal_product(u: Tensor, tile: int = PRODUCT_TILE) -> Tensor:
    """All causal inner products of u [T,d] in row tiles, and nothing done with them."""
    product = u
    for start in range(0, len(u), tile):
        product = u[start : start + tile] @ u[: start + tile].T
    return product


def torch_topk(u: Tensor, k: int, tile: int = 1024) -> tuple[Tensor, Tensor]:
    """Exact causal neighbours of u [T,d] in row tiles of plain torch: product, mask, topk."""
    length = len(u)
    found = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        scores = u[start:stop] @ u[:stop].T
        future = torch.ones_like(scores, dtype=torch.bool).triu_(start)
        found.append(scores.masked_fill_(future, -torch.inf).topk(min(k, stop)))
    pad = [F.pad(f.values, (0, k - f.values.shape[1]), value=-torch.inf) for f in found]
    at = [F.pad(f.indices, (0, k - f.indices.shape[1]), value=-1) for f in found]
    return torch.cat(at), torch.cat(pad)


def approximate(inputs: dict[str, Any]) -> dict[str, float]:
    """pynndescent on the same states: its time as a multiple of ours, and how many of the K nearest
    over all keys, ourselves included, it finds. It is not causal."""
    u, k = inputs["u"], inputs["k"]
    if u.device.type != "cpu" or len(u) < FIRST_APPROXIMATE or not installed("pynndescent"):
        return {}
    from pynndescent import NNDescent

    def search() -> Tensor:
        index = NNDescent(u.numpy(), metric="cosine", n_neighbors=k, random_state=0)
        return torch.from_numpy(index.neighbor_graph[0])

    contenders = {OURS: lambda: ops.causal_topk(u[None], k), "pynndescent": search}
    seconds = interleave(contenders, u.device, budget=1.0)
    exact, _ = ops.causal_topk(u[None], k, positions=torch.full((1, len(u)), len(u)))
    found = (search()[:, :, None] == exact[0][:, None, :]).any(-1)
    return {
        "pynndescent time": Spread.of(ratios(seconds[OURS], seconds["pynndescent"])).median,
        "pynndescent recall": float(found.double().mean()),
    }


Case(
    name="causal_topk",
    group="ops",
    about="the K most similar earlier states of every state, exact",
    sizes=(  # below 8192 x 64 what a call needs is hidden in what the process has free
        {"T": 4096, "d": 12, "K": 16},
        {"T": 8192, "d": 64, "K": 16},
        {"T": 16384, "d": 64, "K": 16},
        {"T": 32768, "d": 64, "K": 16},
    ),
    quick=tuple({"T": t, "d": 12, "K": 4} for t in (256, 512)),
    inputs=_topk_inputs,
    contenders=(
        Contender(OURS, lambda x: lambda: ops.causal_topk(x["u"][None], x["k"])),
        Contender("faiss", lambda x: lambda: faiss_knn(x["u"], x["u"], x["k"]), "faiss", ("cpu",)),
        Contender("torch tiles", lambda x: lambda: torch_topk(x["u"], x["k"])),
        Contender("causal matmul", lambda x: lambda: causal_product(x["u"])),
    ),
    check=_topk_check,
    figures=approximate,
    goals=(
        Goal("faiss", least=2, at=16384),
        Goal("faiss", least=1.2, at=4096),
        Goal("causal matmul", least=0.5, at=16384),
        Goal("memory growth", most=1.1),
    ),
)
