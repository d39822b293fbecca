"""A token graph as arcs over the text, and as a matrix.

Edges are drawn in few traces, grouped by kind and strength, and no more of them than an eye can
follow: the heaviest arcs, and beyond some hundred tokens a matrix of densities. What is left out is
said above the picture.

M edges shown, T tokens of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from state_core.analysis.plot.edge_list import EdgeList, edges_of
from state_core.analysis.plot.look import (
    KIND_COLOURS,
    label_tokens,
    plotly_objects,
    style,
    token_names,
)
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph

if TYPE_CHECKING:
    import plotly.graph_objects as go

STRENGTHS = 4  # groups of edges by weight, each one trace
ARC_POINTS = 24
MOST_ARCS = 1500
FINE_FROM = 60  # arcs, of more each is fainter and thinner
BLOCKS_SHOWN = 4
MOST_CELLS = 250  # a side of the matrix


def arcs(
    graph: TokenGraph,
    b: int = 0,
    tokens: Sequence[str] | None = None,
    *,
    kinds: Iterable[EdgeKind] = (EdgeKind.SEMANTIC, EdgeKind.SUCCESSOR),
    token: int | None = None,
    per_token: int | None = 2,
    min_weight: float | None = None,
    height: int = 460,
) -> go.Figure:
    """The edges of text b as arcs from each token to the earlier ones that it looks at.

    Colour is the kind, thickness the weight; hovering over the top of an arc tells why it is there.
    tokens [T]: their texts. kinds: which edges to draw. token: only the row of this token, whole.
    per_token: the best so many edges of each token and kind, None for all. min_weight: at least
    this similar. Of more than `MOST_ARCS` the heaviest are drawn. InputError if a token or a text
    is out of range.
    """
    go = plotly_objects()
    names = token_names(graph, tokens)
    known = edges_of(graph, b).of_kind(*kinds)
    shown = _select(known, graph.num_nodes, token, per_token, min_weight)
    figure = go.Figure()
    for kind in EdgeKind:
        members = np.flatnonzero(shown.kind == kind)
        if len(members):
            _add_arcs(figure, shown, members, kind, names)
    kind_names = " and ".join(sorted({EdgeKind(k).name.lower() for k in known.kind})) or "such"
    title = "What each token looks at" if token is None else f"What {names[token]} looks at"
    style(figure, height, title, _left_out(len(shown), len(known), kind_names))
    figure.update_yaxes(visible=False, rangemode="tozero")
    label_tokens(figure, names)
    figure.update_xaxes(range=[-1, len(names)])
    return figure


def adjacency(
    graph: TokenGraph,
    b: int = 0,
    tokens: Sequence[str] | None = None,
    *,
    kinds: Iterable[EdgeKind] = tuple(EdgeKind),
    height: int = 560,
) -> go.Figure:
    """The edges of text b as a matrix: row i, column j.

    Of up to `MOST_CELLS` tokens each edge is a mark in the colour of its kind; of more, cells of
    several tokens are shaded by how many edges they hold.
    """
    plotly_objects()
    names = token_names(graph, tokens)
    shown = edges_of(graph, b).of_kind(*kinds)
    few = len(names) <= MOST_CELLS
    figure = _marks(shown, names) if few else _density(shown, len(names))
    side = math.ceil(len(names) / MOST_CELLS)
    cells = f"drawn as numbers of edges in cells of {side} × {side} tokens"
    about = f"{len(shown):,} edges of {len(names):,} tokens"
    style(figure, height, "Who looks at whom", about if few else f"{about}, {cells}")
    figure.update_yaxes(title="token", autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(title="looks at", constrain="domain")
    return figure


def _select(
    edges: EdgeList,
    length: int,
    token: int | None,
    per_token: int | None,
    min_weight: float | None,
) -> EdgeList:
    if token is not None and not 0 <= token < length:
        raise InputError(f"token {token} is out of range: the text has {length} tokens")
    if min_weight is not None:
        edges = edges.where(edges.weight >= min_weight)
    if token is not None:
        edges = edges.where(edges.source == token)
    elif per_token is not None:
        edges = edges.where(edges.rank() < per_token)
    heaviest = np.argsort(-edges.weight, kind="stable")[:MOST_ARCS]
    return edges.where(np.sort(heaviest))


def _left_out(shown: int, known: int, kinds: str) -> str:
    if shown == known:
        return f"all {known:,} {kinds} edges"
    return f"{shown:,} of {known:,} {kinds} edges are drawn, the heaviest"


def _marks(edges: EdgeList, names: Sequence[str]) -> go.Figure:
    figure = plotly_objects().Figure()
    for kind in EdgeKind:
        of = edges.of_kind(kind)
        if not len(of):
            continue
        ends = zip(of.source, of.target, strict=True)
        figure.add_scatter(
            x=of.target,
            y=of.source,
            mode="markers",
            name=kind.name.lower(),
            marker={"color": KIND_COLOURS[kind], "size": max(2.0, 420 / len(names))}
            | {"symbol": "square", "line": {"width": 0}},
            customdata=[(names[i], names[j]) for i, j in ends],
            hovertemplate="%{customdata[0]} (%{y}) → %{customdata[1]} (%{x})",
        )
    return figure


def _density(edges: EdgeList, length: int) -> go.Figure:
    side = math.ceil(length / MOST_CELLS)
    cells = math.ceil(length / side)
    flat = (edges.source // side) * cells + edges.target // side
    counts = np.bincount(flat, minlength=cells * cells).reshape(cells, cells)
    most = max(int(counts.max()), 1)
    # Logarithmic, or the diagonal alone would be seen.
    levels = sorted({0, 1, *(n for n in (2, 4, 8, 16, 32, 64) if n < most), most})
    opacity = [math.log1p(n) / math.log1p(most) for n in levels]
    figure = plotly_objects().Figure()
    figure.add_heatmap(
        z=counts.astype(np.int32),
        x0=(side - 1) / 2,
        dx=side,
        y0=(side - 1) / 2,
        dy=side,
        colorscale=[
            [n / most, f"rgba(47,135,207,{a:.2f})"] for n, a in zip(levels, opacity, strict=True)
        ],
        showscale=False,
        hovertemplate="around token %{y:.0f}, looking around %{x:.0f}: %{z} edges<extra></extra>",
    )
    return figure


def _add_arcs(
    figure: go.Figure,
    edges: EdgeList,
    members: NDArray[np.int64],
    kind: EdgeKind,
    names: Sequence[str],
) -> None:
    """One trace for each strength, and one of invisible points at the tops that carry the hover."""
    name = kind.name.lower()
    strength = _strength(edges.weight)[members]
    strongest = int(strength.max())
    fineness = min(1.0, (FINE_FROM / len(edges)) ** 0.25)
    for n in range(strongest, -1, -1):
        group = members[strength == n]
        if not len(group):
            continue
        x, y = _curves(edges.source[group], edges.target[group])
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=n == strongest,
            opacity=fineness * (0.2 + 0.7 * n / STRENGTHS),
            line={"color": KIND_COLOURS[kind], "width": fineness * (0.6 + 0.7 * n)},
            hoverinfo="skip",
        )
    i, j = edges.source[members], edges.target[members]
    figure.add_scatter(
        x=(i + j) / 2,
        y=_arc_height(i - j),
        mode="markers",
        marker={"color": KIND_COLOURS[kind], "size": 7, "opacity": 0.0},
        legendgroup=name,
        showlegend=False,
        text=[_provenance(edges, int(e), names) for e in members],
        hovertemplate="%{text}<extra></extra>",
    )


def _strength(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """[M], 0 to STRENGTHS − 1: which quarter of all weights, of all kinds, each is in."""
    borders = np.quantile(weight, np.arange(1, STRENGTHS) / STRENGTHS)
    return np.searchsorted(borders, weight, side="left")


def _curves(
    source: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Half ellipses from source to target, one after the other, parted by NaN."""
    angle = np.linspace(0, math.pi, ARC_POINTS)
    middle, radius = (source + target) / 2, (source - target) / 2
    x = middle[:, None] + radius[:, None] * np.cos(angle)
    y = _arc_height(source - target)[:, None] * np.sin(angle)
    gap = np.full((len(source), 1), np.nan)
    flat = (np.hstack([part, gap]).ravel().astype(np.float32) for part in (x, y))
    return next(flat), next(flat)


def _arc_height(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.abs(distance) + 0.5))


def _provenance(edges: EdgeList, e: int, names: Sequence[str]) -> str:
    i, j = int(edges.source[e]), int(edges.target[e])
    parts = sorted(zip(edges.layout, edges.parts[e], strict=True), key=lambda p: -abs(p[1]))
    shown = [f"{name} {value:+.3f}" for name, value in parts[:BLOCKS_SHOWN] if value]
    kind = EdgeKind(int(edges.kind[e])).name.lower()
    head = f"<b>{names[i]}</b> ({i}) looks at <b>{names[j]}</b> ({j}), {i - j} back"
    return f"{head}<br>{kind}, weight {edges.weight[e]:+.3f}<br>{'  '.join(shown)}"
