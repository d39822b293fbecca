"""TokenGraph: the edges of a batch of texts, why each exists, and views of them.

An edge (i, j) reads: token i looks at token j. B batch, T tokens with rows, S tokens known (T, or
more while decoding), E padded width of a row, M edges in all, N blocks of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from state_core.errors import InputError, MissingExtraError, nearest
from state_core.graph.neighbors import EdgeKind
from state_core.graph.similarity import BlockwiseSimilarity, StateSimilarity

if TYPE_CHECKING:
    import networkx
    import plotly.graph_objects as go
    from torch_geometric.data import Batch

    from state_core.graph.statistics import GraphStats


@dataclass(frozen=True)
class EdgeProvenance:
    """Why token `source` looks at token `target`."""

    source: int
    target: int
    kind: EdgeKind
    weight: float
    contributions: Mapping[str, float]
    rank: int | None
    """For a semantic edge: 1 is the row's best."""
    via: int | None
    """For a successor edge: the semantic neighbour that `target` follows."""
    gate: float | None = None
    """For a semantic edge of a gated graph: what the TEMPORAL gate gives it, in (0, 1)."""

    @property
    def dominant(self) -> str:
        """The block with the largest contribution."""
        return max(self.contributions, key=lambda name: self.contributions[name])

    @property
    def reason(self) -> str:
        """One sentence."""
        match self.kind:
            case EdgeKind.SEQUENTIAL if self.source == self.target:
                return "every token looks at itself"
            case EdgeKind.SEQUENTIAL:
                return f"{abs(self.source - self.target)} tokens away, inside the window"
            case EdgeKind.SINK:
                return "one of the first tokens, which every token looks at"
            case EdgeKind.SUCCESSOR:
                return f"it followed token {self.via}, a semantic neighbour"
            case EdgeKind.SHORTCUT:
                return "a shortcut across the text"
            case EdgeKind.RULE:
                return "the registered edge rule chose it"
        gated = "" if self.gate is None else f", gate {self.gate:.2f}"
        return (
            f"number {self.rank} in similarity ({self.weight:+.3f}), "
            f"most of it from block {self.dominant}{gated}"
        )

    def __str__(self) -> str:
        shares = "  ".join(f"{name} {c:+.3f}" for name, c in self.contributions.items() if c)
        return f"{self.source} → {self.target}  {self.kind.name.lower()}: {self.reason}\n  {shares}"


@dataclass(frozen=True)
class Row:
    """The edges of one token, in the order the kernels read them."""

    neighbors: Tensor
    kinds: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class TokenGraph:
    """The rows of the tokens at `positions` [B,T], padded to E edges, and what explains them.

    neighbors [B,T,E] int32 (−1 pads), counts [B,T] int32, kinds [B,T,E] int8, weights [B,T,E] (the
    similarity of the edge's ends), semantic [B,S,N,4]: the states of all tokens known.

    What the configuration asks for, None otherwise: log_gates [B,T,E] of the TEMPORAL gate, 0 for
    edges that it does not judge, and `refused`, the graph of the edges that it turned down;
    coordinates [B,S,L] int32, hops to the landmarks known when each token was read, −1 for
    unreached or not chosen yet; landmarks [B,L] int64, the tokens that they are, −1 for not chosen
    yet; degree [B,T,2] int32, a token's edges, and the most semantic edges that led before it to a
    token that it looks at; walk [B,T,steps], return probabilities.
    """

    neighbors: Tensor
    counts: Tensor
    kinds: Tensor
    weights: Tensor
    positions: Tensor
    semantic: Tensor
    layout: tuple[str, ...]
    similarity: BlockwiseSimilarity | StateSimilarity
    causal: bool = True
    log_gates: Tensor | None = None
    refused: TokenGraph | None = None
    coordinates: Tensor | None = None
    landmarks: Tensor | None = None
    degree: Tensor | None = None
    walk: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.neighbors.shape[0]

    @property
    def num_nodes(self) -> int:
        """Tokens known per text, S."""
        return self.semantic.shape[1]

    @cached_property
    def indptr(self) -> Tensor:
        """CSR row pointers over all rows of the batch, [B·T + 1] int64."""
        counts = self.counts.flatten().long()
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @cached_property
    def _mask(self) -> Tensor:
        width = torch.arange(self.neighbors.shape[-1], device=self.neighbors.device)
        return width < self.counts[..., None]

    @cached_property
    def edge_index(self) -> Tensor:
        """[2,M] int64: token i in row 0, token j in row 1; a token's number is b·S + position."""
        offset = (
            torch.arange(self.batch_size, device=self.neighbors.device)[:, None] * self.num_nodes
        )
        source = (self.positions + offset)[..., None].expand_as(self.neighbors)
        target = self.neighbors + offset[..., None]
        return torch.stack([source[self._mask], target[self._mask]]).long()

    @cached_property
    def kind(self) -> Tensor:
        """[M] int8, values of `EdgeKind`."""
        return self.kinds[self._mask]

    @cached_property
    def weight(self) -> Tensor:
        """[M]: the similarity of the edge's ends."""
        return self.weights[self._mask]

    @property
    def gate(self) -> Tensor:
        """[M]: what the TEMPORAL gate gives each edge, in (0, 1); 1 where it does not judge."""
        if self.log_gates is None:
            return torch.ones_like(self.weight)
        return self.log_gates[self._mask].exp()

    @property
    @torch.no_grad()
    def contributions(self) -> Tensor:
        """[M,N]: each block's share of each edge's weight, computed when asked for; the shares add
        up to the weight."""
        shares = self.similarity.contributions(
            self.semantic, self.positions, self.neighbors, self.counts
        )
        return shares[self._mask]

    @cached_property
    def features(self) -> Tensor:
        """[B,T,d]: what the tokens with rows are compared by; inner products are similarities."""
        batch = torch.arange(self.batch_size, device=self.positions.device)[:, None]
        return self.similarity.features(self.semantic[batch, self.positions])

    def rows(self, b: int, i: int) -> Row:
        """The edges of token i of text b."""
        t = self._row_number(b, i)
        n = int(self.counts[b, t])
        return Row(self.neighbors[b, t, :n], self.kinds[b, t, :n], self.weights[b, t, :n])

    @torch.no_grad()
    def explain(self, b: int, i: int, j: int) -> EdgeProvenance:
        """Why token i of text b looks at token j; InputError if it does not."""
        t, row = self._row_number(b, i), self.rows(b, i)
        found = (row.neighbors == j).nonzero()
        if not len(found):
            raise InputError(
                f"token {i} of text {b} does not look at token {j}; "
                f"it looks at {sorted(row.neighbors.tolist())}"
            )
        e = int(found[0])
        kind = EdgeKind(int(row.kinds[e]))
        # The graph of these two tokens: a row whose one edge points from the first to the second.
        ends, zero = self.semantic[b : b + 1, [i, j]], row.neighbors.new_zeros(1, 1)
        shares = self.similarity.contributions(ends, zero.long(), zero[..., None] + 1, zero + 1)
        before = int((row.kinds[:e] == EdgeKind.SEMANTIC).sum())
        gate = None
        if self.log_gates is not None and kind is EdgeKind.SEMANTIC:
            gate = float(self.log_gates[b, t, e].exp())
        return EdgeProvenance(
            source=i,
            target=j,
            kind=kind,
            weight=float(row.weights[e]),
            contributions=dict(zip(self.layout, shares[0, 0, 0].tolist(), strict=True)),
            rank=before + 1 if kind is EdgeKind.SEMANTIC else None,
            via=j - 1 if kind is EdgeKind.SUCCESSOR else None,
            gate=gate,
        )

    def subgraph(
        self,
        *,
        kinds: Iterable[EdgeKind] | None = None,
        nodes: Sequence[int] | None = None,
        min_weight: float | None = None,
        keep: Tensor | None = None,
    ) -> TokenGraph:
        """The edges that pass every filter given; nodes stay numbered as they are.

        kinds: of these kinds; nodes: both ends among these positions; min_weight: at least this
        similar; keep [M] bool: exactly these edges, in the order of `edge_index`.
        """
        mask = self._mask.clone()
        if kinds is not None:
            mask &= torch.isin(
                self.kinds, torch.tensor([int(k) for k in kinds], device=mask.device)
            )
        if nodes is not None:
            chosen = torch.tensor(list(nodes), device=mask.device)
            mask &= (
                torch.isin(self.neighbors, chosen) & torch.isin(self.positions, chosen)[..., None]
            )
        if min_weight is not None:
            mask &= self.weights >= min_weight
        if keep is not None:
            if keep.shape != self.kind.shape or keep.dtype != torch.bool:
                raise InputError(
                    f"keep must be bool [{len(self.kind)}], got {keep.dtype} {list(keep.shape)}"
                )
            mask[self._mask] &= keep
        return self._select(mask)

    def complement(self, part: TokenGraph) -> TokenGraph:
        """The edges of this graph that `part` does not have."""
        width = self.num_nodes + 1
        ours, theirs = (
            (g.edge_index[0] * self.batch_size * width + g.edge_index[1]) for g in (self, part)
        )
        mask = self._mask.clone()
        mask[self._mask] = ~torch.isin(ours, theirs)
        return self._select(mask)

    def _select(self, mask: Tensor) -> TokenGraph:
        order = (~mask).to(torch.int8).argsort(dim=-1, stable=True)
        return replace(
            self,
            neighbors=torch.where(mask, self.neighbors, -1).gather(-1, order),
            kinds=self.kinds.gather(-1, order),
            weights=torch.where(mask, self.weights, 0).gather(-1, order),
            log_gates=None if self.log_gates is None else self.log_gates.gather(-1, order),
            counts=mask.sum(-1, dtype=torch.int32),
        )

    def stats(self) -> GraphStats:
        """Degrees, their skewness, kinds, block shares, reciprocity."""
        from state_core.graph.statistics import graph_stats

        return graph_stats(self)

    def to_networkx(self, b: int = 0) -> networkx.DiGraph:
        """Text b as a DiGraph whose edges carry kind and weight."""
        try:
            import networkx
        except ImportError:
            raise MissingExtraError("networkx", "graph", "TokenGraph.to_networkx") from None
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(self.num_nodes))
        source, target = self.edge_index
        mine = source // self.num_nodes == b
        columns = (
            source[mine] % self.num_nodes,
            target[mine] % self.num_nodes,
            self.kind[mine],
            self.weight[mine],
        )
        for i, j, kind, weight in zip(*(c.tolist() for c in columns), strict=True):
            graph.add_edge(i, j, kind=EdgeKind(kind).name.lower(), weight=weight)
        return graph

    def to_pyg(self) -> Batch:
        """The batch as PyG data: x [S, N·4] the states, edge_index from j to i (messages flow to
        the token that looks), edge_weight, edge_kind."""
        try:
            from torch_geometric.data import Batch, Data
        except ImportError:
            raise MissingExtraError("torch-geometric", "graph", "TokenGraph.to_pyg") from None
        source, target = self.edge_index
        texts = []
        for b in range(self.batch_size):
            mine = source // self.num_nodes == b
            ends = torch.stack([target[mine], source[mine]]) % self.num_nodes
            texts.append(
                Data(
                    x=self.semantic[b].flatten(1),
                    edge_index=ends,
                    edge_weight=self.weight[mine],
                    edge_kind=self.kind[mine],
                )
            )
        return Batch.from_data_list(texts)

    def plot(
        self,
        b: int = 0,
        tokens: Sequence[str] | None = None,
        view: Literal["arcs", "adjacency"] = "arcs",
        **options: Any,
    ) -> go.Figure:
        """The edges of text b as arcs or as a matrix, with the options of the function of that
        name in `state_core.analysis.plot`; tokens: their texts. InputError for another view."""
        from state_core.analysis import plot

        views = {"arcs": plot.arcs, "adjacency": plot.adjacency}
        if view not in views:
            raise InputError(f"a graph has no view {view!r}: {nearest(view, views)}")
        return views[view](self, b, tokens, **options)

    def _row_number(self, b: int, i: int) -> int:
        if not 0 <= b < self.batch_size:
            raise InputError(f"text {b} is out of range: the graph has {self.batch_size} texts")
        found = (self.positions[b] == i).nonzero()
        if not len(found):
            low, high = int(self.positions[b].min()), int(self.positions[b].max())
            raise InputError(
                f"token {i} of text {b} has no row: the graph has rows {low} to {high}"
            )
        return int(found[0])
