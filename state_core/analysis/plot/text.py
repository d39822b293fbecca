"""A text coloured by what a prediction owes to each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from state_core.analysis.attribution import Part, token_shares
from state_core.analysis.plot.look import (
    AGAINST,
    FOR,
    INK,
    LEGEND_ROOM,
    escaped,
    plotly_objects,
    style,
)
from state_core.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = 90  # characters of a line of text
CHARACTER, LINE, MARGIN = 7.25, 24, 12  # pixels, at a font size of 12
MOST_LINES, ENDING = 36, 4  # shown of a long text, the last of them in any case
FAINTEST, STRONG = 0.02, 0.5  # of the largest share: less is not coloured, or only faintly


def attribution(tree: Part, tokens: Sequence[str], position: int) -> go.Figure:
    """The text up to `position`, coloured by what each token gives to the prediction there: blue
    speaks for the word, ochre against it; the token at `position` is framed.

    tokens: the text of each. Of a long text the lines that count most are shown. InputError for
    too few tokens.
    """
    if not 0 <= position < len(tokens):
        raise InputError(f"position {position} is out of range: there are {len(tokens)} tokens")
    go = plotly_objects()
    shares = token_shares(tree)
    lines = _lines(tokens[: position + 1])
    shown = _most_telling(lines, shares)
    most = max((abs(share) for share in shares.values()), default=1.0) or 1.0
    figure = go.Figure()
    for row, number in enumerate(shown):
        left_out = number - (shown[row - 1] + 1 if row else 0)
        if left_out:
            _write(figure, -3, row, "⋮")
        column = 0
        for strength, run in groupby(lines[number], lambda i: _strength(shares, i, most, position)):
            members = list(run)
            text = "".join(_spelled(tokens[i]) for i in members)
            hover = "" if strength is None else _hover(shares, members[0])
            framed = position in members
            _write(figure, column, row, text, strength, hover, framed)
            column += len(text)
    style(figure, LINE * len(shown), "What the text gives to the next word", _note(lines, shown))
    room = figure.layout.margin.t - LEGEND_ROOM + MARGIN
    figure.update_layout(
        width=CHARACTER * (COLUMNS + 3) + 2 * MARGIN,
        height=LINE * len(shown) + room + MARGIN,
        margin={"l": MARGIN, "r": MARGIN, "t": room, "b": MARGIN},
    )
    figure.update_xaxes(visible=False, range=[-3, COLUMNS])
    figure.update_yaxes(visible=False, range=[len(shown) - 0.5, -0.5])
    return figure


def _lines(tokens: Sequence[str]) -> list[list[int]]:
    """Which tokens stand in each line of COLUMNS characters."""
    lines: list[list[int]] = [[]]
    column = 0
    for i, token in enumerate(tokens):
        width = len(_spelled(token))
        if column and column + width > COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append(i)
        column += width
        if "\n" in token:
            lines.append([])
            column = 0
    return [line for line in lines if line]


def _most_telling(lines: Sequence[Sequence[int]], shares: Mapping[int, float]) -> list[int]:
    """The numbers of the lines that are shown: all of a short text; of a long one its end, and
    those of the largest shares."""
    if len(lines) <= MOST_LINES:
        return list(range(len(lines)))
    weight = [sum(abs(shares.get(i, 0.0)) for i in line) for line in lines]
    ending = range(len(lines) - ENDING, len(lines))
    telling = [n for n in range(len(lines) - ENDING) if weight[n] >= FAINTEST * max(weight)]
    best = sorted(telling, key=lambda n: (-weight[n], -n))[: MOST_LINES - ENDING]
    return sorted([*best, *ending])


def _note(lines: Sequence[Sequence[int]], shown: Sequence[int]) -> str:
    about = "blue speaks for it, ochre against it"
    if len(shown) == len(lines):
        return about
    return f"{about}; {len(lines) - len(shown)} of {len(lines)} lines, which say least, left out"


def _strength(
    shares: Mapping[int, float], i: int, most: float, position: int
) -> tuple[int, float] | None:
    """Tokens of equal strength in a row are written at once: plain ones, as most are."""
    share = shares.get(i, 0.0) / most
    return (i, share) if abs(share) >= FAINTEST or i == position else None


def _write(
    figure: go.Figure,
    column: int,
    row: int,
    text: str,
    strength: tuple[int, float] | None = None,
    hover: str = "",
    framed: bool = False,
) -> None:
    """Text at a column and a row, behind it the colour of its strength. Faint colours leave the ink
    legible on any paper, strong ones are their own paper."""
    share = 0.0 if strength is None else strength[1]
    colour = FOR if share > 0 else AGAINST
    strong = abs(share) >= STRONG
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    opacity = 1.0 if strong else 0.1 + 0.4 * abs(share) if abs(share) >= FAINTEST else 0.0
    figure.add_annotation(
        x=column,
        y=row,
        text=escaped(text).replace(" ", "&nbsp;"),
        showarrow=False,
        xanchor="left",
        align="left",
        borderpad=0,
        bgcolor=f"rgba({red},{green},{blue},{opacity:.2f})",
        bordercolor=INK if framed else "rgba(0,0,0,0)",
        hovertext=hover,
        font={"family": "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace", "size": 12}
        | {"color": "#ffffff" if strong else INK},
    )


def _hover(shares: Mapping[int, float], i: int) -> str:
    return f"token {i}: {shares.get(i, 0.0):+.1%}"


def _spelled(token: str) -> str:
    return token.replace("\n", "↵").replace("\t", "⇥") or "␣"
