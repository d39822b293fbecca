"""Line charts as inline SVG: no script, no library, colours from the page's style sheet.

After Tufte: the axes span the range of the data, lines carry their own names, nothing else is
drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from state_core.analysis.html import Html, tag

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 104, 34, 44
LABEL_HEIGHT = 17

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line. style: a class of the style sheet; raw: noisy points drawn faintly behind it."""

    name: str
    points: Sequence[Point]
    style: str
    raw: Sequence[Point] = ()
    marks: bool = False


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_ticks: Sequence[float],
    log_x: bool = False,
    spell_x: Callable[[float], str] = lambda x: f"{x:,.0f}",
) -> Html:
    """A chart of lines; points that are not finite are left out."""
    series = [_finite(s) for s in series]
    drawn = [point for s in series for point in (*s.points, *s.raw)]
    if not drawn:
        return tag("figure", tag("h3", title), tag("p", "Nothing was recorded.", class_="note"))
    extent = [p[0] for p in drawn] + list(x_ticks)
    x = _scale(extent, (LEFT, WIDTH - RIGHT), log_x)
    y = _scale([p[1] for p in drawn], (HEIGHT - BOTTOM, TOP), False)
    y_ticks = nice_ticks(min(p[1] for p in drawn), max(p[1] for p in drawn))
    return tag(
        "figure",
        tag("h3", title),
        tag(
            "svg",
            _x_axis(x, extent, x_ticks, x_label, spell_x),
            _y_axis(y, y_ticks),
            [_line(s, x, y) for s in series],
            _names(series, y),
            class_="chart",
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=f"{title}: {', '.join(s.name for s in series)}",
        ),
    )


def smooth(points: Sequence[Point], reach: int) -> list[Point]:
    """Each point's mean with those up to `reach` away on either side; fewer in a short line."""
    reach = min(reach, len(points) // 10)
    means = []
    for n, (x, _) in enumerate(points):
        values = [y for _, y in points[max(0, n - reach) : n + reach + 1]]
        means.append((x, sum(values) / len(values)))
    return means


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high], about as many as asked for."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _finite(series: Series) -> Series:
    def keep(points: Sequence[Point]) -> list[Point]:
        return [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]

    return Series(series.name, keep(series.points), series.style, keep(series.raw), series.marks)


def _scale(
    values: Sequence[float], pixels: tuple[float, float], log: bool
) -> Callable[[float], float]:
    f = math.log if log else float
    low, high = f(min(values)), f(max(values))
    span = (high - low) or 1.0
    return lambda v: round(pixels[0] + (f(v) - low) / span * (pixels[1] - pixels[0]), 1)


def _x_axis(
    x: Callable[[float], float],
    extent: Sequence[float],
    ticks: Sequence[float],
    label: str,
    spell: Callable[[float], str],
) -> list[Html]:
    bottom = HEIGHT - BOTTOM + 10
    axis = tag("line", x1=x(min(extent)), x2=x(max(extent)), y1=bottom, y2=bottom, class_="axis")
    names = [tag("text", spell(t), x=x(t), y=bottom + 16, text_anchor="middle") for t in ticks]
    centre = (LEFT + WIDTH - RIGHT) / 2
    return [axis, *names, tag("text", label, x=centre, y=HEIGHT + 2, text_anchor="middle")]


def _y_axis(y: Callable[[float], float], ticks: Sequence[float]) -> list[Html]:
    left = LEFT - 10
    axis = tag("line", x1=left, x2=left, y1=y(min(ticks)), y2=y(max(ticks)), class_="axis")
    names = [tag("text", f"{t:g}", x=left - 6, y=y(t) + 4, text_anchor="end") for t in ticks]
    return [axis, *names]


def _line(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> list[Html]:
    def path(points: Sequence[Point]) -> str:
        return " ".join(f"{x(a)},{y(b)}" for a, b in points)

    parts = [tag("polyline", points=path(series.points), class_=f"line {series.style}")]
    if series.raw:
        parts.insert(0, tag("polyline", points=path(series.raw), class_=f"line raw {series.style}"))
    if series.marks:
        parts += [
            tag(
                "circle",
                tag("title", f"{series.name}: {_spell(b)} at {a:g}"),
                cx=x(a),
                cy=y(b),
                r=4,
                class_=series.style,
            )
            for a, b in series.points
        ]
    return parts


def _names(series: Sequence[Series], y: Callable[[float], float]) -> list[Html]:
    """Each line's name and last value beside its end, pushed apart where they would overlap."""
    ends = sorted(((y(s.points[-1][1]), s) for s in series if s.points), key=lambda end: end[0])
    names: list[Html] = []
    lowest = -math.inf
    for place, s in ends:
        lowest = max(place, lowest + LABEL_HEIGHT)
        text = f"{s.name} {_spell(s.points[-1][1])}"
        names.append(tag("text", text, x=WIDTH - RIGHT + 8, y=lowest + 4, class_=s.style))
    return names


def _spell(value: float) -> str:
    """Three or more digits, whatever the size."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(max(abs(value), 1))))}f}"
