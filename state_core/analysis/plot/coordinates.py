"""Where tokens stand, in hops to the landmarks of their text.

S tokens, L landmarks, C columns of the picture: runs of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from state_core.analysis.plot.look import (
    LINE_COLOURS,
    label_tokens,
    plotly_objects,
    style,
    token_names,
)
from state_core.errors import InputError
from state_core.graph.token_graph import TokenGraph

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_COLUMNS = 600
ROW = 22  # pixels


def landmarks(graph: TokenGraph, b: int = 0, tokens: Sequence[str] | None = None) -> go.Figure:
    """The landmark coordinates of text b: hops from each token to each landmark that was known when
    the token was read, near ones dark. A ring is where the landmark itself stands.

    Of a long text a cell is the least distance in a run of tokens. InputError for a graph without
    landmarks, or without such a text.
    """
    go = plotly_objects()
    if graph.coordinates is None or graph.landmarks is None:
        raise InputError("this graph has no landmarks: set graph.landmarks, to 16 for example")
    if not 0 <= b < graph.batch_size:
        raise InputError(f"text {b} is out of range: the graph has {graph.batch_size} texts")
    names = token_names(graph, tokens)
    places = graph.landmarks[b].cpu().numpy()
    chosen = np.flatnonzero(places >= 0)
    if not len(chosen):
        raise InputError(f"text {b} ends before its first landmarks are chosen")
    run = -(-len(names) // MOST_COLUMNS)
    hops = graph.coordinates[b].cpu().numpy()[:, chosen].T.astype(np.float32)
    hops[hops < 0] = np.inf  # unreached, or not chosen yet
    padding = ((0, 0), (0, -len(names) % run))
    nearest = np.pad(hops, padding, constant_values=np.inf).reshape(len(chosen), -1, run).min(-1)
    nearest[np.isinf(nearest)] = np.nan
    figure = go.Figure()
    figure.add_heatmap(
        z=nearest,
        x0=(run - 1) / 2,
        dx=run,
        colorscale=[[0, LINE_COLOURS[0]], [1, "rgba(47,135,207,0.08)"]],
        colorbar={"title": "hops", "thickness": 10, "outlinewidth": 0, "dtick": 1},
        hovertemplate="token %{x:.0f}: %{z} hops from %{y}<extra></extra>",
    )
    figure.add_scatter(
        x=places[chosen],
        y=np.arange(len(chosen)),
        mode="markers",
        marker={"symbol": "circle-open", "size": 10, "color": LINE_COLOURS[1], "line_width": 2},
        hovertemplate="the landmark, token %{x}<extra></extra>",
        showlegend=False,
    )
    unused = len(places) - len(chosen)
    notes = ["a ring is the landmark itself; before it is chosen nobody knows their distance"]
    notes += [f"a cell is the nearest of {run} tokens"] * (run > 1)
    notes += [f"{unused} of {len(places)} landmarks were not chosen yet"] * bool(unused)
    style(figure, ROW * len(chosen) + 120, "Hops to the landmarks", "; ".join(notes))
    labels = [f"{names[place]} ({place})" for place in places[chosen]]
    figure.update_yaxes(tickvals=list(range(len(chosen))), ticktext=labels, autorange="reversed")
    figure.update_yaxes(showgrid=False, zeroline=False, automargin=True)
    label_tokens(figure, names)
    return figure
