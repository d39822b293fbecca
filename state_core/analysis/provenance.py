"""Provenance over a corpus: which blocks of the state make the edges, and which edges a prediction.

    shares = block_shares(model, documents)        # of each block, with its spread over documents
    shares.table()
    for ranked in ranked_edges(model, ids, position=40):
        print(ranked.share, ranked.edge)

What a block encodes, whatever its name, `analysis.block_probes` asks. L tokens of a window,
T tokens, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.analysis.attribution import attribute, token_shares
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import EdgeProvenance
from state_core.pipeline import SOSM

if TYPE_CHECKING:
    from rich.table import Table

Document = Sequence[int] | NDArray[np.int64] | Tensor
"""The ids of one document, [T]."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class BlockShares:
    """Each block's share in the weight of semantic edges, by absolute contribution: shares
    [documents, N], every row of which adds up to 1."""

    layout: tuple[str, ...]
    shares: Tensor

    @property
    def mean(self) -> Tensor:
        """[N]: every document counts the same, however long."""
        return self.shares.mean(0)

    @property
    def spread(self) -> Tensor:
        """[N]: the standard deviation over documents; NaN for one document, which has none."""
        if len(self.shares) == 1:
            return torch.full_like(self.shares[0], torch.nan)
        return self.shares.std(0)

    def table(self) -> Table:
        """Blocks that have a share, the largest first."""
        from rich.table import Table

        table = Table("block", title_justify="left", box=None, pad_edge=False)
        table.title = f"Share in semantic edges, {len(self.shares)} documents"
        for column in ("share", "± over documents", "least", "most"):
            table.add_column(column, justify="right")
        for n in self.mean.argsort(descending=True, stable=True).tolist():
            if not float(self.mean[n]):
                continue
            each = self.shares[:, n]
            numbers = (self.mean[n], self.spread[n], each.min(), each.max())
            table.add_row(self.layout[n], *(f"{float(x):.1%}" for x in numbers))
        return table


@dataclass(frozen=True)
class RankedEdge:
    """An edge of the row that a word is predicted from, and the share of its probability that it
    gives, by votes and through every layer; negative: it speaks against the word."""

    edge: EdgeProvenance
    share: float


@torch.no_grad()
def block_shares(
    model: SOSM,
    documents: Sequence[Document],
    window: int | None = None,
    progress: Progress = lambda done, of: None,
) -> BlockShares:
    """Read every document in windows of `window` tokens (as the model was trained, if not given)
    and share out the weight of its semantic edges. Documents without such an edge are left out.

    InputError for a model without a graph, or if no document has one.
    """
    require_graph(model)
    rows = []
    for n, document in enumerate(documents):
        sums = [_absolute(model, ids) for ids in windows(model, document, window)]
        total = torch.stack(sums).sum(0) if sums else torch.zeros(1)
        if float(total.sum()):
            rows.append(total / total.sum())
        progress(n + 1, len(documents))
    if not rows:
        raise InputError("no document has a semantic edge: give longer ones")
    return BlockShares(tuple(model.mu.layout), torch.stack(rows))


def ranked_edges(
    model: SOSM, ids: Tensor, position: int, token: int | None = None, text: int = 0
) -> list[RankedEdge]:
    """The edges of the row at `position`, those first that most of p(`token`) comes from; the
    likeliest token if not given. InputError for a model without a graph, or what is out of range.
    """
    require_graph(model)
    shares = token_shares(attribute(model, ids, position, token, text))
    with torch.no_grad():
        graph = model(ids, return_graph=True).graph
    assert graph is not None
    found = [
        RankedEdge(graph.explain(text, position, j), shares.get(j, 0.0))
        for j in graph.rows(text, position).neighbors.tolist()
    ]
    return sorted(found, key=lambda ranked: -abs(ranked.share))


def windows(model: SOSM, document: Document, window: int | None = None) -> Iterator[Tensor]:
    """The document as texts [1,L] that the model reads by themselves; what is left at its end, if
    it is not all there is, is left out."""
    device = model.embedding.codes.weight.device
    ids = torch.as_tensor(document, dtype=torch.int64, device=device)
    length = min(window or model.config.train.seq_len, max(len(ids), 1))
    for first in range(0, len(ids) - length + 1, length):
        yield ids[None, first : first + length]


def require_graph(model: SOSM) -> None:
    """InputError for a model without a state and a graph."""
    if not model.config.graph.enabled:
        raise InputError("this model has no state and builds no graph: graph.enabled is false")


def _absolute(model: SOSM, ids: Tensor) -> Tensor:
    """Σ |contribution| of each block over the semantic edges of a text, [N] float64."""
    graph = model(ids, return_graph=True).graph
    assert graph is not None
    semantic = graph.kind == EdgeKind.SEMANTIC
    return graph.contributions[semantic].double().abs().sum(0)
