"""What the TEMPORAL gate lets through.

M semantic edges that passed, R that were refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from state_core.analysis.plot.edge_list import EdgeList, edges_of
from state_core.analysis.plot.look import AGAINST, FOR, INK, plotly_objects, style
from state_core.config import GraphConfig
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS = 1500  # of each outcome


def gate(
    graph: TokenGraph, b: int = 0, config: GraphConfig | None = None, *, height: int = 420
) -> go.Figure:
    """The semantic edges of text b that the TEMPORAL gate judged, by similarity and gate, and
    the mean gate by how far back they lead.

    config: draws the thresholds between which it decided. Of more than `MOST_POINTS` that passed,
    or were refused, as many are drawn, evenly through the text. InputError for a graph without a
    gate.
    """
    plotly_objects()
    from plotly.subplots import make_subplots

    if graph.log_gates is None or graph.refused is None:
        raise InputError(
            "this graph has no TEMPORAL gate: train a model with graph.temporal_gate = true"
        )
    figure = make_subplots(cols=2, column_widths=[0.62, 0.38], horizontal_spacing=0.1)
    outcomes = {
        "passed": (edges_of(graph, b).of_kind(EdgeKind.SEMANTIC), FOR),
        "refused": (edges_of(graph.refused, b), AGAINST),
    }
    for name, (edges, colour) in outcomes.items():
        shown = edges.where(_evenly(len(edges)))
        figure.add_scatter(
            x=shown.weight,
            y=shown.gate,
            mode="markers",
            name=f"{name}, {len(edges):,}",
            legendgroup=name,
            marker={"color": colour, "size": 5, "opacity": 0.55},
            customdata=np.stack([shown.source, shown.target], 1),
            hovertemplate="token %{customdata[0]} to %{customdata[1]}<br>similarity %{x:.3f}, "
            f"gate %{{y:.3f}}<extra>{name}</extra>",
            row=1,
            col=1,
        )
        distance, mean, count = _by_distance(edges)
        figure.add_scatter(
            x=distance,
            y=mean,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=False,
            line={"color": colour},
            customdata=count,
            hovertemplate="%{x:.0f} back: %{y:.3f}, mean of %{customdata}"
            f"<extra>{name}</extra>",
            row=1,
            col=2,
        )
    known = {name: len(edges) for name, (edges, _) in outcomes.items()}
    cut = " and ".join(f"{MOST_POINTS:,} that {_were(n)}" for n in known if known[n] > MOST_POINTS)
    note = f"drawn of the edges: {cut}; the means are of all" if cut else ""
    style(figure, height, "What the TEMPORAL gate lets through", note)
    if config is not None:
        _add_thresholds(figure, config)
    figure.update_yaxes(title="gate", range=[-0.03, 1.03])
    figure.update_xaxes(title="similarity", col=1)
    figure.update_xaxes(
        title="tokens back", type="log", tickvals=[1, 3, 10, 30, 100, 300, 1000], col=2
    )
    return figure


def _evenly(count: int) -> NDArray[np.int64]:
    """Up to MOST_POINTS of so many edges, all of them if they are no more."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST_POINTS)).astype(np.int64))


def _by_distance(
    edges: EdgeList,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean distance, mean gate and number of the edges in each octave of distance."""
    back = edges.source - edges.target
    bins = np.log2(np.maximum(back, 1)).astype(np.int64)
    count = np.bincount(bins)
    some = count > 0
    sums = (np.bincount(bins, weights=values) for values in (back, edges.gate))
    distance, gates = (total[some] / count[some] for total in sums)
    return distance, gates, count[some]


def _were(name: str) -> str:
    return "were refused" if name == "refused" else name


def _add_thresholds(figure: go.Figure, config: GraphConfig) -> None:
    """Accepted is what is right of τ_high, or right of τ_mu and above τ_temp."""
    line = {"color": INK, "width": 1, "dash": "dot"}
    where = {"row": 1, "col": 1, "line": line, "annotation_font_size": 11}
    figure.add_vline(config.tau_mu, annotation_text="τ mu", **where)
    figure.add_vline(config.tau_high, annotation_text="τ high", **where)
    figure.add_hline(config.tau_temp, annotation_text="τ temp", **where)
