"""Pictures of attributions: a text coloured by what a prediction owes to it, and faithfulness."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from state_core.analysis.attribution import Part
from state_core.analysis.faithfulness import Curve
from state_core.analysis.plots import LINE_COLOURS, plotly_objects, style
from state_core.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

FOR, AGAINST = LINE_COLOURS[0], LINE_COLOURS[1]
LINE_WIDTH = 90  # characters of a line of text
FAINTEST = 0.02  # of the largest share; less is not coloured


def token_shares(tree: Part) -> dict[int, float]:
    """What each token that is looked at gives to the prediction, over all heads and votes."""
    shares: dict[int, float] = defaultdict(float)
    for part in tree:
        name = part.path.rsplit("/", 1)[-1]
        if name.startswith("edge to ") and not part.parts:
            shares[int(name.removeprefix("edge to "))] += part.share
    return dict(shares)


def attribution(
    tree: Part, tokens: Sequence[str], position: int, *, height: int | None = None
) -> go.Figure:
    """The text up to `position`, coloured by what each token gives to the prediction there: blue
    speaks for the word, ochre against it. tokens: the text of each. InputError for too few."""
    if not 0 <= position < len(tokens):
        raise InputError(f"position {position} is out of range: there are {len(tokens)} tokens")
    go = plotly_objects()
    shares = token_shares(tree)
    most = max((abs(share) for share in shares.values()), default=1.0) or 1.0
    places = _places(tokens[: position + 1])
    lines = 1 + max(line for line, _ in places)
    height = height or 60 + 24 * lines
    figure = go.Figure()
    figure.add_scatter(
        x=[0, LINE_WIDTH], y=[0, -lines], mode="markers", opacity=0, hoverinfo="skip"
    )
    for i, (line, column) in enumerate(places):
        strength = abs(shares.get(i, 0.0)) / most
        shown = tokens[i].replace("\n", "↵")
        if strength >= FAINTEST:
            figure.add_shape(
                type="rect",
                x0=column,
                x1=column + len(shown),
                y0=-line - 0.45,
                y1=-line + 0.45,
                fillcolor=FOR if shares[i] > 0 else AGAINST,
                opacity=0.15 + 0.6 * strength,
                line_width=2 if i == position else 0,
                layer="below",
            )
        figure.add_annotation(
            x=column,
            y=-line,
            text=html.escape(shown).replace(" ", "&nbsp;"),
            showarrow=False,
            xanchor="left",
            font={"family": "monospace", "size": 12},
            hovertext=f"token {i}: {shares.get(i, 0.0):+.1%}",
        )
    style(figure, height)
    figure.update_layout(showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10})
    figure.update_xaxes(visible=False, range=[-1, LINE_WIDTH + 8])
    figure.update_yaxes(visible=False, range=[-lines - 0.2, 0.8])
    return figure


def faithfulness(curves: Sequence[Curve], *, height: int = 380) -> go.Figure:
    """Deletion (left) and insertion (right) of methods, with the area under each in the legend."""
    plotly_objects()
    from plotly.subplots import make_subplots

    figure = make_subplots(
        cols=2,
        subplot_titles=("best edges cut: lower is better", "best edges kept: higher is better"),
    )
    for n, curve in enumerate(curves):
        both = ((curve.deletion, curve.deletion_area), (curve.insertion, curve.insertion_area))
        for column, (values, area) in enumerate(both, start=1):
            figure.add_scatter(
                x=curve.at.tolist(),
                y=values.tolist(),
                name=curve.method,
                legendgroup=curve.method,
                showlegend=column == 1,
                mode="lines",
                line={
                    "color": LINE_COLOURS[n % len(LINE_COLOURS)],
                    "dash": "solid" if n < len(LINE_COLOURS) else "dot",
                },
                hovertemplate=f"{curve.method}, area {area:.3f}<extra></extra>",
                row=1,
                col=column,
            )
    style(figure, height)
    figure.update_layout(margin={"t": 60}, legend={"y": 1.22})
    figure.update_xaxes(title="share of the row's edges", tickformat=".0%")
    figure.update_yaxes(title="p of the word, relative", col=1)
    return figure


def _places(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Line and column of each token, in lines of LINE_WIDTH characters."""
    places, line, column = [], 0, 0
    for token in tokens:
        if column and column + len(token) > LINE_WIDTH:
            line, column = line + 1, 0
        places.append((line, column))
        column += max(len(token), 1)
        if "\n" in token:
            line, column = line + 1, 0
    return places
