"""Training and faithfulness as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state_core.analysis.faithfulness import Curve
from state_core.analysis.plot.look import LINE_COLOURS, plotly_objects, style
from state_core.analysis.svg import smooth
from state_core.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

SMOOTHING = 3  # records of the training log on either side


def loss(
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


def faithfulness(curves: Sequence[Curve], *, height: int = 340) -> go.Figure:
    """Deletion (left) and insertion (right) of methods, with the areas under both in the legend."""
    plotly_objects()
    from plotly.subplots import make_subplots

    titles = ("best edges cut: lower is better", "best edges kept: higher is better")
    figure = make_subplots(cols=2, subplot_titles=titles)
    for n, curve in enumerate(curves):
        both = ((curve.deletion, curve.deletion_area), (curve.insertion, curve.insertion_area))
        areas = " and ".join(f"{area:.2f}" for _, area in both)
        dash = "solid" if n < len(LINE_COLOURS) else "dot"
        for column, (values, area) in enumerate(both, start=1):
            figure.add_scatter(
                x=curve.at.tolist(),
                y=values.tolist(),
                name=f"{curve.method}, areas {areas}",
                legendgroup=curve.method,
                showlegend=column == 1,
                mode="lines",
                line={"color": LINE_COLOURS[n % len(LINE_COLOURS)], "dash": dash},
                hovertemplate=f"{curve.method}, area {area:.3f}<extra></extra>",
                row=1,
                col=column,
            )
    predictions = len(curves[0].each_deletion) if curves else 0
    title = "Do explanations name the edges that predictions hang on?"
    style(figure, height, title, f"mean of {predictions} predictions of this model")
    figure.update_layout(legend={"y": -0.24, "yanchor": "top"}, margin={"b": 90})
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title="share of the row's edges", tickformat=".0%")
    figure.update_yaxes(title="p of the word, relative", col=1)
    return figure


def _records(run: str | Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not isinstance(run, str | Path):
        return run
    from state_core.training.metrics import read_metrics

    return read_metrics(run)
