"""Accuracy on probes against the state that is carried for it, a panel a task."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from state_core.analysis.html import page, tag
from state_core.analysis.plot.look import LINE_COLOURS, figures_html, plotly_objects, style
from state_core.atomic import atomic_write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 420


def picture(found: list[dict[str, Any]]) -> go.Figure:
    """A point an arm: the mean accuracy over its runs; whiskers reach to the worst and the best."""
    plotly_objects()
    from plotly.subplots import make_subplots

    tasks = list(dict.fromkeys(r["task"] for r in found))
    arms = list(dict.fromkeys(r["arm"] for r in found))
    figure = make_subplots(1, len(tasks), subplot_titles=tasks, shared_yaxes=True)
    style(figure, HEIGHT)
    for n, arm in enumerate(arms):
        for column, task in enumerate(tasks, start=1):
            rows = [r for r in found if (r["task"], r["arm"]) == (task, arm)]
            if rows:
                colour = LINE_COLOURS[n % len(LINE_COLOURS)]
                _add_point(figure, rows, colour, column, shown=task == tasks[0])
    figure.update_xaxes(title="numbers carried for a text", type="log", exponentformat="SI")
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    figure.update_yaxes(title="accuracy", col=1)
    return figure


def write_picture(found: list[dict[str, Any]], path: Path) -> None:
    """The figure as a page that holds all it needs, good in light and dark."""
    figure = figures_html([picture(found)])
    seeds = len({r["seed"] for r in found})
    probes = "; ".join(dict.fromkeys(r["probe"] for r in found))
    said = f"Each arm at its best learning rate, {seeds} seeds; whiskers: worst and best. {probes}"
    heading = tag("h1", "Recall against state"), tag("p", said)
    atomic_write_text(path, page("SOSM on probes", *heading, *figure))


def _add_point(
    figure: go.Figure, rows: list[dict[str, Any]], colour: str, column: int, shown: bool
) -> None:
    accuracies = [r["test"]["accuracy"] for r in rows]
    middle = mean(accuracies)
    figure.add_scatter(
        x=[rows[0]["state"]["elements"]],
        y=[middle],
        error_y={"array": [max(accuracies) - middle], "arrayminus": [middle - min(accuracies)]},
        mode="markers",
        marker={"size": 12, "color": colour},
        name=rows[0]["arm"],
        legendgroup=rows[0]["arm"],
        showlegend=shown,
        hovertemplate="%{x:,} numbers: %{y:.1%}",
        row=1,
        col=column,
    )
