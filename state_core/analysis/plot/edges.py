"""Plotly figures of a token graph and of training, for notebooks. Needs the extra `plots`.

Transparent backgrounds and mid-tone inks, so that they sit well on light and dark pages. Edges are
drawn in few traces, grouped by kind and strength, so that texts of 2000 tokens stay usable.

M edges shown, T tokens of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.analysis.svg import smooth
from state_core.errors import InputError, MissingExtraError
from state_core.graph.neighbors import EdgeKind

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from state_core.graph.token_graph import TokenGraph

KIND_COLOURS = {
    EdgeKind.SEQUENTIAL: "#8f8c84",
    EdgeKind.SEMANTIC: "#2f87cf",
    EdgeKind.SUCCESSOR: "#e0702d",
    EdgeKind.SINK: "#9a6fc4",
    EdgeKind.SHORTCUT: "#2f9c95",
}
LINE_COLOURS = ("#2f87cf", "#b9803f", "#3a9b6b", "#c05a9d", "#8f8c84")
INK = "#86837b"
STRENGTHS = 4  # groups of edges by weight, each one trace
ARC_POINTS = 24
BLOCKS_SHOWN = 4
SMOOTHING = 3  # records of the training log on either side
LABELLED = 160  # tokens, beyond which only hovering names them


def arc_diagram(
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
    this similar. InputError if a token or a text is out of range.
    """
    go = plotly_objects()
    names = _token_names(graph, tokens)
    shown = _select(graph, b, list(kinds), token, per_token, min_weight)
    figure = go.Figure()
    for kind in EdgeKind:
        members = np.flatnonzero(shown.kind == kind)
        if len(members):
            _add_arcs(figure, shown, members, kind, names, graph.layout)
    style(figure, height)
    figure.update_yaxes(visible=False, rangemode="tozero")
    figure.update_xaxes(showgrid=False, zeroline=False)
    if len(names) <= LABELLED:
        figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, tickangle=-60)
    return figure


def adjacency(
    graph: TokenGraph,
    b: int = 0,
    tokens: Sequence[str] | None = None,
    *,
    kinds: Iterable[EdgeKind] = tuple(EdgeKind),
    height: int = 560,
) -> go.Figure:
    """The edges of text b as a matrix: row i, column j, colour is the kind."""
    go = plotly_objects()
    names = _token_names(graph, tokens)
    shown = _select(graph, b, list(kinds), None, None, None)
    figure = go.Figure()
    for kind in EdgeKind:
        members = np.flatnonzero(shown.kind == kind)
        if not len(members):
            continue
        i, j = shown.source[members], shown.target[members]
        figure.add_scattergl(
            x=j,
            y=i,
            mode="markers",
            name=kind.name.lower(),
            marker={
                "color": KIND_COLOURS[kind],
                "size": max(2.0, 420 / len(names)),
                "symbol": "square",
            },
            customdata=[(names[p], names[q]) for p, q in zip(i, j, strict=True)],
            hovertemplate="%{customdata[0]} (%{y}) → %{customdata[1]} (%{x})",
        )
    style(figure, height)
    figure.update_yaxes(title="token", autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(title="looks at", constrain="domain")
    return figure


def loss_curves(
    runs: Mapping[str, str | Path | Sequence[Mapping[str, Any]]], *, height: int = 380
) -> go.Figure:
    """Training loss by step of runs, by name: run folders, or records of metrics.jsonl."""
    go = plotly_objects()
    figure = go.Figure()
    for n, (name, run) in enumerate(runs.items()):
        colour = LINE_COLOURS[n % len(LINE_COLOURS)]
        points = [(r["step"], r["loss"]) for r in _records(run) if r["kind"] == "train"]
        if not points:
            raise InputError(f"the run {name!r} has no record of training")
        steps, losses = zip(*points, strict=True)
        figure.add_scatter(
            x=steps,
            y=losses,
            mode="lines",
            line={"color": colour, "width": 1},
            opacity=0.3,
            showlegend=False,
            hoverinfo="skip",
        )
        means = [loss for _, loss in smooth(points, SMOOTHING)]
        figure.add_scatter(x=steps, y=means, mode="lines", name=name, line={"color": colour})
    style(figure, height)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss, nats per token")
    return figure


class _Edges:
    """Edges of one text as arrays [M], with the contributions [M,N] of their blocks."""

    def __init__(self, source: Tensor, target: Tensor, kind: Tensor, weight: Tensor, parts: Tensor):
        self.source = source.cpu().numpy()
        self.target = target.cpu().numpy()
        self.kind = kind.cpu().numpy()
        self.weight = weight.detach().float().cpu().numpy()
        self.parts = parts.detach().float().cpu().numpy()

    @property
    def strength(self) -> NDArray[np.int64]:
        """[M], 0 to STRENGTHS − 1: the weight on a scale that all kinds share."""
        span = self.weight.max() - self.weight.min() or 1.0
        share = (self.weight - self.weight.min()) / span
        return np.minimum((share * STRENGTHS).astype(np.int64), STRENGTHS - 1)


def _select(
    graph: TokenGraph,
    b: int,
    kinds: list[EdgeKind],
    token: int | None,
    per_token: int | None,
    min_weight: float | None,
) -> _Edges:
    if not 0 <= b < graph.batch_size:
        raise InputError(f"text {b} is out of range: the graph has {graph.batch_size} texts")
    if token is not None and not 0 <= token < graph.num_nodes:
        raise InputError(f"token {token} is out of range: the text has {graph.num_nodes} tokens")
    part = graph.subgraph(kinds=kinds, min_weight=min_weight)
    source, target = part.edge_index
    keep = source // graph.num_nodes == b
    if token is not None:
        keep &= source % graph.num_nodes == token
    elif per_token is not None:
        keep &= _rank_within(source * len(EdgeKind) + part.kind, part.weight) < per_token
    ends = (source[keep] % graph.num_nodes, target[keep] % graph.num_nodes)
    return _Edges(*ends, part.kind[keep], part.weight[keep], part.contributions[keep])


def _rank_within(group: Tensor, weight: Tensor) -> Tensor:
    """Each edge's place by weight among those of its group, from 0."""
    order = weight.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    grouped = group[order]
    starts = torch.ones_like(grouped, dtype=torch.bool)
    starts[1:] = grouped[1:] != grouped[:-1]
    place = torch.arange(len(order), device=order.device)
    rank = place - torch.where(starts, place, 0).cummax(0).values
    return torch.empty_like(rank).scatter_(0, order, rank)


def _add_arcs(
    figure: go.Figure,
    edges: _Edges,
    members: NDArray[np.int64],
    kind: EdgeKind,
    names: Sequence[str],
    layout: Sequence[str],
) -> None:
    """One trace for each strength, and one of invisible points at the tops that carry the hover."""
    name = kind.name.lower()
    strength = edges.strength[members]
    strongest = int(strength.max())
    for n in range(strongest, -1, -1):
        group = members[strength == n]
        if not len(group):
            continue
        x, y = _arcs(edges.source[group], edges.target[group])
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=n == strongest,
            opacity=0.2 + 0.7 * n / STRENGTHS,
            line={"color": KIND_COLOURS[kind], "width": 0.5 + 0.7 * n},
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
        text=[_provenance(edges, e, names, layout) for e in members],
        hovertemplate="%{text}<extra></extra>",
    )


def _arcs(
    source: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half ellipses from source to target, one after the other, parted by NaN."""
    angle = np.linspace(0, math.pi, ARC_POINTS)
    middle, radius = (source + target) / 2, (source - target) / 2
    x = middle[:, None] + radius[:, None] * np.cos(angle)
    y = _arc_height(source - target)[:, None] * np.sin(angle)
    gap = np.full((len(source), 1), np.nan)
    return np.hstack([x, gap]).ravel(), np.hstack([y, gap]).ravel()


def _arc_height(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.abs(distance) + 0.5))


def _provenance(edges: _Edges, e: int, names: Sequence[str], layout: Sequence[str]) -> str:
    i, j = int(edges.source[e]), int(edges.target[e])
    parts = sorted(zip(layout, edges.parts[e], strict=True), key=lambda p: -abs(p[1]))
    shown = [f"{name} {value:+.3f}" for name, value in parts[:BLOCKS_SHOWN] if value]
    kind = EdgeKind(int(edges.kind[e])).name.lower()
    head = f"<b>{names[i]}</b> ({i}) looks at <b>{names[j]}</b> ({j}), {i - j} back"
    return f"{head}<br>{kind}, weight {edges.weight[e]:+.3f}<br>{'  '.join(shown)}"


def _token_names(graph: TokenGraph, tokens: Sequence[str] | None) -> list[str]:
    """Labels of the tokens. Plotly reads some HTML in them, so that no `<` may reach it."""
    if tokens is None:
        return [str(i) for i in range(graph.num_nodes)]
    if len(tokens) != graph.num_nodes:
        raise InputError(f"{len(tokens)} token texts for a graph of {graph.num_nodes} tokens")
    shown = (t.replace("\n", "↵").strip() or "␣" for t in tokens)
    return [t.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for t in shown]


def _records(run: str | Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not isinstance(run, str | Path):
        return run
    from state_core.training.metrics import read_metrics

    return read_metrics(run)


def style(figure: go.Figure, height: int) -> None:
    """The look that all figures share."""
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 20, "t": 30, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.06},
        hoverlabel={"align": "left"},
        colorway=list(LINE_COLOURS),
    )
    axis = {"gridcolor": "rgba(134,131,123,0.2)", "zerolinecolor": "rgba(134,131,123,0.3)"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def plotly_objects() -> Any:
    """plotly.graph_objects, or MissingExtraError."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise MissingExtraError("plotly", "plots", "this figure") from None
    return go
