"""What all figures share: colours, names of tokens, titles, and how they get into a page.

Transparent backgrounds and mid-tone inks, so that they sit well on light and dark pages. SVG only:
WebGL is not to be had everywhere, and pictures small enough for SVG can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from state_core.analysis.html import Html
from state_core.errors import InputError, MissingExtraError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND_COLOURS = {
    EdgeKind.SEQUENTIAL: "#8f8c84",
    EdgeKind.SEMANTIC: "#2f87cf",
    EdgeKind.SUCCESSOR: "#e0702d",
    EdgeKind.SINK: "#9a6fc4",
    EdgeKind.SHORTCUT: "#2f9c95",
    EdgeKind.RULE: "#c05a9d",
}
LINE_COLOURS = ("#2f87cf", "#b9803f", "#3a9b6b", "#c05a9d", "#8f8c84")
FOR, AGAINST = LINE_COLOURS[0], LINE_COLOURS[1]
INK = "#86837b"
LABELLED = 80  # tokens, beyond which only hovering names them
LEGEND_ROOM, TITLE_ROOM, NOTE_ROOM = 34, 30, 20  # pixels above the axes


def style(figure: go.Figure, height: int, title: str = "", note: str = "") -> None:
    """The look that all figures share. height: of the axes with their names and the legend, to
    which title and note add; note: a smaller line below the title, such as what is left out."""
    room = TITLE_ROOM * bool(title) + NOTE_ROOM * bool(note)
    figure.update_layout(
        height=height + room,
        margin={"l": 50, "r": 20, "t": LEGEND_ROOM + room, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
        | {"itemsizing": "constant"},
        hoverlabel={"align": "left"},
        colorway=list(LINE_COLOURS),
    )
    if title:
        figure.update_layout(
            title={"text": title, "font": {"size": 15}}
            | {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 4}}
            | {"y": 1 - 8 / (height + room), "yref": "container", "yanchor": "top"}
        )
    if note:
        figure.update_layout(title_subtitle={"text": note, "font": {"size": 12, "color": INK}})
    axis = {"gridcolor": "rgba(134,131,123,0.2)", "zerolinecolor": "rgba(134,131,123,0.3)"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def figures_html(figures: Sequence[go.Figure]) -> list[Html]:
    """Figures as parts of one page; the first brings the library that draws them all."""
    config = {"displayModeBar": False, "responsive": True}
    return [
        Html(figure.to_html(full_html=False, include_plotlyjs=n == 0, config=config))
        for n, figure in enumerate(figures)
    ]


def plotly_objects() -> Any:
    """plotly.graph_objects, or MissingExtraError."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise MissingExtraError("plotly", "plots", "this figure") from None
    return go


def token_names(graph: TokenGraph, tokens: Sequence[str] | None) -> list[str]:
    """Labels of the tokens of a text: their numbers where no texts are given. InputError for a
    wrong number of them."""
    if tokens is None:
        return [str(i) for i in range(graph.num_nodes)]
    if len(tokens) != graph.num_nodes:
        raise InputError(f"{len(tokens)} token texts for a graph of {graph.num_nodes} tokens")
    return [escaped(t.replace("\n", "↵").strip() or "␣") for t in tokens]


def escaped(text: str) -> str:
    """Plotly reads some HTML in its labels, so that no `<` may reach it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label_tokens(figure: go.Figure, names: Sequence[str], width: float = 1.0, **where: int) -> None:
    """Write the tokens along the x axis, if there is room. width: the axis's share of the figure's;
    where: its row and column."""
    figure.update_xaxes(showgrid=False, zeroline=False, **where)
    if len(names) <= width * LABELLED:
        ticks = {"tickvals": list(range(len(names))), "ticktext": list(names), "tickangle": -60}
        figure.update_xaxes(
            **ticks, tickfont={"size": 11 if len(names) <= 0.6 * width * LABELLED else 9}, **where
        )
    else:
        figure.update_xaxes(title="token", **where)
