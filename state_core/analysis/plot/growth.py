"""How time grows with size: the picture of a benchmark's report. Needs the extra `plots`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from state_core.analysis.html import page, tag
from state_core.analysis.plot.look import INK, LINE_COLOURS, figures_html, plotly_objects, style
from state_core.atomic import atomic_write_text
from state_core.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from state_core.bench.report import Report, Result

PANEL_HEIGHT = 340
COLUMNS = 2


def scaling(report: Report) -> go.Figure:
    """Seconds against size, both on logarithmic scales, a panel for each case that ran at several
    sizes: a straight line of slope 1 is linear growth.

    The legend is that of each panel, in its corner: contender and fitted exponent. Whiskers are the
    quartiles. InputError if no case ran at two sizes.
    """
    plotly_objects()
    from plotly.subplots import make_subplots

    panels = [
        series for series in report.series() if len({r.size for r in series if r.seconds}) > 1
    ]
    if not panels:
        raise InputError("nothing to draw: no case of this report ran at two sizes")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    titles = [f"{p[0].case} <sup>{p[0].fixed}</sup>" for p in panels]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.3 / rows)
    style(figure, PANEL_HEIGHT * rows)
    for n, series in enumerate(panels):
        _add_panel(figure, series, n // columns + 1, n % columns + 1, n)
    return figure


def write_scaling(report: Report, path: str | Path) -> None:
    """The figure as a page that holds all it needs, good in light and dark."""
    figure = figures_html([scaling(report)])
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    heading = tag("h1", "Time against size"), tag("p", machine)
    atomic_write_text(path, page("sosm bench", *heading, *figure))


def _add_panel(figure: go.Figure, series: list[Result], row: int, column: int, n: int) -> None:
    # Here, since who draws no benchmark need not wait for them.
    from state_core.bench.case import OURS
    from state_core.bench.timing import growth_exponent

    contenders = dict.fromkeys(c for result in series for c in result.seconds)
    for colour, name in zip(_colours(len(contenders)), contenders):
        timed = [result for result in series if name in result.seconds]
        sizes = [result.size for result in timed]
        spreads = [result.seconds[name] for result in timed]
        medians = [s.median for s in spreads]
        grows = (
            f" ∝ {series[0].axis}^{growth_exponent(sizes, medians):.2f}" if len(timed) > 1 else ""
        )
        figure.add_scatter(
            x=sizes,
            y=medians,
            error_y={
                "array": [s.high - s.median for s in spreads],
                "arrayminus": [s.median - s.low for s in spreads],
                "thickness": 1,
            },
            name=f"{name}{grows}",
            mode="lines+markers",
            line={"color": colour, "width": 3 if name == OURS else 1.5},
            legend=f"legend{n + 1}" if n else "legend",
            hovertemplate=f"{name}, %{{x}}: %{{y:.3s}}s<extra></extra>",
            row=row,
            col=column,
        )
    axes = {"type": "log", "row": row, "col": column}
    ticks = sorted({r.size for r in series})
    figure.update_xaxes(
        **axes, title=series[0].axis, tickvals=ticks, ticktext=[f"{t:,}" for t in ticks]
    )
    figure.update_yaxes(**axes, title="time", ticksuffix="s", exponentformat="SI", dtick=1)
    _place_legend(figure, row, column, n)


def _place_legend(figure: go.Figure, row: int, column: int, n: int) -> None:
    x = next(figure.select_xaxes(row=row, col=column)).domain[0] + 0.01
    y = next(figure.select_yaxes(row=row, col=column)).domain[1]
    corner = {"x": x, "y": y, "yanchor": "top", "orientation": "v", "bgcolor": "rgba(0,0,0,0)"}
    font = {"size": 11, "color": INK}
    figure.update_layout({f"legend{n + 1}" if n else "legend": {**corner, "font": font}})


def _colours(count: int) -> list[str]:
    return [LINE_COLOURS[i % len(LINE_COLOURS)] for i in range(count)]
