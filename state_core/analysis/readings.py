"""What a model makes of a token or of a text, as vectors that probes and comparisons can read.

    readings(model, ids)["state"]                     # [B,T,d], a vector a token
    text_vectors(model, rows)["hidden"]               # [N,d], a vector a text

    hidden   what the last layer says
    state    the blocks of the semantic state, each of unit length, less those that tell position
    graph    the neighbourhood: the states of the tokens that it looks at, weighted by similarity

A model without a graph has `hidden` alone.

B texts, T tokens, E edges of a row, N texts of any length, d width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core.pipeline import Backbone
from state_core.state import State

BATCH_TOKENS = 4096
TELLING = ("token", "local", "long")  # sources of blocks; the others know where, not what
Watch = Callable[[int], None]


@torch.no_grad()
def readings(model: Backbone, ids: Tensor) -> dict[str, Tensor]:
    """The vectors [B,T,d] of every token of ids [B,T], by kind."""
    graphs = model.config.graph.enabled
    out = model(ids, return_graph=graphs, return_state=graphs)
    if not graphs:
        return {"hidden": out.hidden}
    state, graph = _telling(model, out.state), out.graph
    itself = graph.neighbors == graph.positions[..., None]
    weights = graph.weights.clamp(min=0) * ((graph.neighbors >= 0) & ~itself)
    batch = torch.arange(len(ids), device=ids.device)[:, None, None]
    around = state[batch, graph.neighbors.clamp(min=0).long()]  # [B,T,E,d]
    near = torch.einsum("bte,bted->btd", weights, around)
    near = near / weights.sum(-1, keepdim=True).clamp(min=1e-6)
    return {"hidden": out.hidden, "state": state, "graph": near}


def text_vectors(
    model: Backbone, rows: Sequence[Sequence[int]], watch: Watch = lambda texts: None
) -> dict[str, Tensor]:
    """A vector [N,d] of each row of ids: the mean over its tokens, as in Schütze's context vectors
    (Computational Linguistics 24, 1998).

    watch: told how many texts were read. Texts of one length are read together, so that nothing is
    padded.
    """
    found: dict[str, list[Tensor]] = {}
    order: list[int] = []
    for batch in batches(rows):
        ids = torch.tensor([rows[i] for i in batch])
        for kind, vectors in readings(model, ids).items():
            found.setdefault(kind, []).append(vectors.mean(1))
        order += batch
        watch(len(batch))
    back = torch.tensor(order).argsort()
    return {kind: torch.cat(parts)[back] for kind, parts in found.items()}


def random_vectors(rows: Sequence[Sequence[int]], width: int = 64, seed: int = 0) -> Tensor:
    """The same of vectors [N,width] that were drawn for each id: bags of words, nothing learnt."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(1 + max(map(max, rows)), width, generator=generator)
    return torch.stack([table[list(row)].mean(0) for row in rows])


def batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of rows, those of one length together, some BATCH_TOKENS at a time."""
    of_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        of_length.setdefault(len(row), []).append(i)
    for length, members in sorted(of_length.items()):
        size = max(1, BATCH_TOKENS // length)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _telling(model: Backbone, state: State) -> Tensor:
    sources = model.config.state.layout
    kept = [n for n, name in enumerate(state.layout) if sources[name] in TELLING]
    return F.normalize(state.semantic[:, :, kept], dim=-1).flatten(2)
