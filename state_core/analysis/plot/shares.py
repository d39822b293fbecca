"""Which blocks of the state make the edges.

M edges shown, N blocks, C columns of the picture: runs of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from state_core.analysis.plot.edge_list import EdgeList, edges_of
from state_core.analysis.plot.look import INK, label_tokens, plotly_objects, style, token_names
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#2f87cf", "#3a9b6b", "#c9a227", "#c05a9d", "#e0702d", "#2f9c95", "#9a6fc4")
MOST_COLUMNS = 200
WIDTHS = [0.72, 0.28]  # of the text, and of the kinds


def blocks(
    graph: TokenGraph,
    b: int = 0,
    tokens: Sequence[str] | None = None,
    *,
    kind: EdgeKind = EdgeKind.SEMANTIC,
    height: int = 460,
) -> go.Figure:
    """What each block gives to the weights of text b's edges: the mean over each token's edges of
    `kind`, and on the right the mean over all edges of each kind. Bars add up to the weight.

    Of a long text runs of tokens are drawn; of many blocks the smallest are drawn as one.
    InputError if there is no such text, or no edge of the kind in it.
    """
    plotly_objects()
    from plotly.subplots import make_subplots

    names, edges = token_names(graph, tokens), edges_of(graph, b)
    chosen = edges.of_kind(kind)
    if not len(chosen):
        raise InputError(f"text {b} has no {kind.name.lower()} edge, so that no block made any")
    figure = make_subplots(cols=2, column_widths=WIDTHS, shared_yaxes=True, horizontal_spacing=0.04)
    present = [k for k in EdgeKind if np.any(edges.kind == k)]
    run = -(-len(names) // MOST_COLUMNS)
    columns = np.arange(0, len(names), run)
    along = _means(chosen, chosen.source // run, len(columns))
    by_kind = _means(edges, edges.kind, len(EdgeKind))[present]
    order, others = _largest(by_kind if len(present) else along)
    for name, colour, of in _groups(chosen.layout, order, others):
        shared = {"name": name, "marker": {"color": colour, "line": {"width": 0}}}
        shared |= {"legendgroup": name, "hovertemplate": f"{name} %{{y:+.3f}}<extra>%{{x}}</extra>"}
        figure.add_bar(x=columns + (run - 1) / 2, y=along[:, of].sum(1), **shared, row=1, col=1)
        kinds = [k.name.lower() for k in present]
        figure.add_bar(x=kinds, y=by_kind[:, of].sum(1), showlegend=False, **shared, row=1, col=2)
    figure.add_scatter(
        x=columns + (run - 1) / 2,
        y=along.sum(1),
        mode="markers",
        marker={"color": INK, "size": 3},
        name="weight",
        hovertemplate="weight %{y:+.3f}<extra></extra>",
        row=1,
        col=1,
    )
    of_what = "each token" if run == 1 else f"{run} tokens at a time"
    about = f"means over the {kind.name.lower()} edges of {of_what}; right: over all of each kind"
    style(figure, height, "What the weights of edges are made of", about)
    figure.update_layout(barmode="relative", bargap=0.1)
    figure.update_yaxes(title="weight", col=1)
    label_tokens(figure, names, WIDTHS[0], row=1, col=1)
    return figure


def _means(edges: EdgeList, group: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """[C,N]: the mean contribution of each block to the edges of each group; 0 where none is."""
    sums = np.zeros((count, edges.parts.shape[1]))
    np.add.at(sums, group, edges.parts)
    return sums / np.maximum(np.bincount(group, minlength=count), 1)[:, None]


def _largest(means: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """The blocks that are drawn by themselves, in their order, and those drawn as one."""
    size = np.abs(means).sum(0)
    used = [int(n) for n in np.flatnonzero(size)]
    if len(used) <= len(COLOURS):
        return used, []
    first = sorted(used, key=lambda n: -size[n])[: len(COLOURS) - 1]
    return sorted(first), [n for n in used if n not in first]


def _groups(
    layout: Sequence[str], order: Sequence[int], others: Sequence[int]
) -> list[tuple[str, str, list[int]]]:
    """Name, colour and members of each bar."""
    groups = [(layout[n], colour, [n]) for n, colour in zip(order, COLOURS)]
    return [*groups, (f"{len(others)} others", COLOURS[-1], list(others))] if others else groups
