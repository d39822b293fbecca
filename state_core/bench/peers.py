"""What a user would pick instead of our ops, behind our signatures.

Thin adapters: each calls the other library the way its own code does, and imports it only when
called. Shapes: B batch, T tokens, S keys, H heads, D head width, E edges of a row, d width of the
compared states, K neighbours, P head width and N state of the SSD, G groups, V vocabulary, r rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSFORMERS_CHUNK = 64  # no slower on CPU than its default of 256, and lighter on memory


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's scaled dot-product attention over all causal pairs. q, k, v [B,H,T,D]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def gathered_scores(u: Tensor, neighbors: Tensor, counts: Tensor) -> Tensor:
    """Inner products of rows with their neighbours, by gathering [B,T,E,d]."""
    batch, _, edges = neighbors.shape
    rows = torch.arange(batch, device=u.device)[:, None, None]
    present = torch.arange(edges, device=u.device) < counts[..., None]
    gathered = u[rows, neighbors.long() * present]
    return torch.einsum("btd,bted->bte", u, gathered) * present


def faiss_knn(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact, not causal, inner-product neighbours of queries [T,d] among keys [S,d]."""
    import faiss

    scores, indices = faiss.knn(queries.numpy(), keys.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(indices), torch.from_numpy(scores)


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


def mambapy_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """mambapy's parallel scan, on the channels that our heads stand for.

    x [B,T,H,P], dt [B,T,H], A [H], B and C [B,T,1,N] → [B,T,H,P]. mambapy scans the state of each
    channel, [B,T,H·P,N]; a head's channels share dt and A, so that both compute the same.
    """
    from mambapy.pscan import pscan

    batch, length, heads, width = x.shape
    dt_channel = dt.repeat_interleave(width, dim=2)
    decay = torch.exp(dt_channel[..., None] * A.repeat_interleave(width)[:, None])
    write = (dt_channel * x.flatten(2))[..., None] * B
    states = pscan(decay.expand_as(write), write)
    return (states @ C.mT).view(batch, length, heads, width)


def transformers_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The chunked scan in torch that `transformers` runs inside its Mamba-2 layer."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    out: Tensor = mamba2_chunk_scan(x, dt, A, B, C, chunk_size=TRANSFORMERS_CHUNK)
    return out


def torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution and SiLU as Mamba layers write it: nn.Conv1d, padded and cut."""
    channels, width = weight.shape
    padded = F.conv1d(x.mT, weight[:, None], bias, padding=width - 1, groups=channels)
    return F.silu(padded[..., : x.shape[1]]).mT


def full_logprob(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(h weightᵀ)[target] through the logits of the whole vocabulary [N,V]."""
    return -F.cross_entropy(h @ weight.T, targets, reduction="none")
