"""Pictures of provenance: what blocks have a share in edges, and what they encode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from state_core.analysis.block_probes import BlockProbes
from state_core.analysis.html import Html, page, tag
from state_core.analysis.plots import LINE_COLOURS, plotly_objects, style
from state_core.analysis.provenance import BlockShares
from state_core.atomic import atomic_write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW_HEIGHT = 26


def shares(found: BlockShares, *, height: int = 340) -> go.Figure:
    """Each block's share in semantic edges; whiskers are the standard deviation over documents."""
    figure = plotly_objects().Figure()
    figure.add_bar(
        x=list(found.layout),
        y=found.mean.tolist(),
        error_y={"array": found.spread.nan_to_num(0).tolist(), "thickness": 1},
        marker_color=LINE_COLOURS[0],
        hovertemplate="%{x}: %{y:.1%}<extra></extra>",
    )
    style(figure, height)
    figure.update_yaxes(title="share of the weight", tickformat=".0%")
    return figure


def probes(found: BlockProbes) -> go.Figure:
    """Blocks × labels: colour is what the probe knows beyond the commonest label, 1 is everything;
    in each cell the accuracy, and in brackets the untrained model's."""
    go = plotly_objects()
    above = (found.accuracy - found.majority) / (1 - found.majority).clip(min=1e-9)
    both = zip(found.accuracy, found.untrained, strict=True)
    cells = [[f"{a:.0%} ({b:.0%})" for a, b in zip(*row, strict=True)] for row in both]
    counts = zip(found.labels, found.classes, found.majority, strict=True)
    figure = go.Figure(
        go.Heatmap(
            z=above.clip(min=0),
            x=[f"{label}<br>{n} classes, commonest {rate:.0%}" for label, n, rate in counts],
            y=[f"{name} · {source}" for name, source in found.sources.items()],
            text=cells,
            texttemplate="%{text}",
            colorscale=[[0, "rgba(47,135,207,0.04)"], [1, LINE_COLOURS[0]]],
            zmin=0,
            zmax=1,
            colorbar={"title": "beyond<br>commonest", "tickformat": ".0%"},
            hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>",
        )
    )
    style(figure, 120 + ROW_HEIGHT * len(found.blocks))
    figure.update_layout(margin={"l": 130, "b": 60})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    return figure


def write_provenance(
    shared: BlockShares, probed: BlockProbes, path: str | Path, about: str = ""
) -> Path:
    """Both figures as a page that holds all it needs. about: a line on what was read."""
    figures = [
        Html(f.to_html(full_html=False, include_plotlyjs=n == 0, config={"displayModeBar": False}))
        for n, f in enumerate((shares(shared), probes(probed)))
    ]
    text = page(
        "What the blocks of the state do",
        tag("h1", "What the blocks of the state do"),
        tag("p", about),
        tag("h2", "Their share in semantic edges"),
        tag("p", "By absolute contribution; whiskers: standard deviation over documents."),
        figures[0],
        tag("h2", "What a linear probe reads off them"),
        tag("p", "Accuracy on held-out text, in brackets that of an untrained model; colour: how "
                 "far it is from the rate of the commonest label to certainty."),
        figures[1],
    )  # fmt: skip
    atomic_write_text(path, text)
    return Path(path)
