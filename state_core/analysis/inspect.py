"""The report of `sosm inspect`: what a model makes of one text, all in one file.

The graph to explore, and pictures of it; where a predicted word comes from, and whether that
explanation is faithful; the names of the model's internals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from state_core.analysis import plot
from state_core.analysis.attribution import Part, attribute
from state_core.analysis.explorer import LONGEST, SCRIPTS, Reader, explorer, most_telling
from state_core.analysis.faithfulness import faithfulness
from state_core.analysis.html import Html, page, tag
from state_core.analysis.internals import internals
from state_core.analysis.plot.look import figures_html, plotly_objects
from state_core.analysis.recollection import recollection
from state_core.atomic import atomic_write_text
from state_core.errors import InputError
from state_core.output import SOSMOutput

if TYPE_CHECKING:
    import plotly.graph_objects as go

ASKED = 4  # predictions that faithfulness is measured on
ASKED_WITHIN = 300  # tokens: each prediction is made again for every size of every method
SIZES = 6

Progress = Callable[[int, int], None]


def write_inspection(
    readers: Sequence[Reader],
    ids: Sequence[int],
    path: str | Path,
    chosen: int | None = None,
    progress: Progress = lambda done, of: None,
) -> SOSMOutput:
    """Write the report of a text with token ids [T]; returns what the first model made of it.

    readers: the model, and perhaps another that the explorer compares it with, on the same text.
    chosen: the token whose next word is explained; by default one with telling edges. InputError if
    there is no such token, or a model builds no graph; MissingExtraError without Plotly.
    """
    plotly_objects()
    ours = readers[0]
    if chosen is not None and not 0 <= chosen < len(ids):
        raise InputError(f"token {chosen} is out of range: the text has tokens 0 to {len(ids) - 1}")
    out, data = ours.read(ids)
    text = ours.tokenizer.decode(ids)
    others = [r.read(r.tokenizer.encode(text)[:LONGEST])[1] for r in readers[1:]]
    best = most_telling(data) if chosen is None else chosen
    position = len(ids) - 1 if best is None else best
    before = torch.tensor([ids[: position + 1]])
    tree = attribute(ours.model, before, position, memory=ours.memory)
    drawings = _drawings(ours, out, ids, data["tokens"], tree, position, progress)
    title = "What a model makes of a text"
    body = [
        tag("h1", title),
        tag("p", _facts(ours, out), class_="lead"),
        explorer("graph", data, *others, chosen=position),
        *_sections(drawings, _words(ours, data, position, tree)),
        *_memory(ours, out, position),
        _internals(ours),
    ]
    atomic_write_text(path, page(title, *body, scripts=SCRIPTS))
    return out


def _drawings(
    reader: Reader,
    out: SOSMOutput,
    ids: Sequence[int],
    tokens: Sequence[str],
    tree: Part,
    position: int,
    progress: Progress,
) -> dict[str, Callable[[], go.Figure]]:
    """How each picture is drawn, by its heading."""
    graph, config, model = out.graph, reader.model.config.graph, reader.model
    assert graph is not None

    def faithful() -> go.Figure:
        asked = _asked(len(ids), position)
        curves = faithfulness(model, torch.tensor([ids]), asked, points=SIZES, progress=progress)
        return plot.faithfulness(curves)

    return {
        "Attribution": lambda: plot.attribution(tree, tokens, position),
        "Faithfulness": faithful,
        "The graph as a matrix": lambda: plot.adjacency(graph, 0, tokens),
        "Blocks": lambda: plot.blocks(graph, 0, tokens),
        "The TEMPORAL gate": lambda: plot.gate(graph, 0, config),
        "Landmarks": lambda: plot.landmarks(graph, 0, tokens),
    }


def _sections(
    drawings: Mapping[str, Callable[[], go.Figure]], words: Mapping[str, Html]
) -> list[Html]:
    """A section for each picture, with what `words` say above it. Where the model or the text gives
    nothing to draw, the reason stands in its place."""
    shown: dict[str, go.Figure | InputError] = {}
    for name, draw in drawings.items():
        try:
            shown[name] = draw()
        except InputError as reason:
            shown[name] = reason
    figures = [picture for picture in shown.values() if not isinstance(picture, InputError)]
    drawn = iter(figures_html(figures))
    sections = []
    for name, picture in shown.items():
        nothing = isinstance(picture, InputError)
        below = tag("p", str(picture), class_="note") if nothing else _framed(next(drawn))
        sections.append(tag("section", tag("h2", name), words.get(name, ""), below))
    return sections


def _asked(length: int, position: int) -> list[int]:
    """Some positions early in the text, the chosen one among them if it is."""
    last = min(length, ASKED_WITHIN) - 1
    spread = [last * (n + 1) // ASKED for n in range(ASKED)]
    return sorted({*spread, *([position] if position <= last else [])})


def _framed(figure: Html) -> Html:
    """A figure that keeps its proportions: a narrow window scrolls."""
    return tag("div", tag("div", figure, class_="figure"), class_="scroll")


def _facts(reader: Reader, out: SOSMOutput) -> str:
    graph, config = out.graph, reader.model.config
    assert graph is not None
    stats = graph.stats()
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in stats.kinds.items() if count)
    held = 0 if reader.memory is None else len(reader.memory)
    behind = f", with {held:,} remembered behind them" if held else ""
    return (
        f"{reader.name}, a model of {reader.model.num_parameters():,} parameters with the layers "
        f"{', '.join(config.layers)}, read {graph.num_nodes:,} tokens{behind}, through "
        f"{stats.edges:,} edges: {kinds}."
    )


def _words(reader: Reader, data: Mapping[str, Any], position: int, tree: Part) -> dict[str, Html]:
    """What stands above pictures, by their heading."""
    said = {"Attribution": _split(data, position, tree)}
    if reader.memory is not None:
        alone = "Of the text alone: this is measured without the memory of what was read before."
        said["Faithfulness"] = tag("p", alone)
    return said


def _memory(reader: Reader, out: SOSMOutput, position: int) -> list[Html]:
    """What the token remembered, if the model read anything before."""
    if reader.memory is None:
        return []
    found = recollection(out, reader.memory, position, reader.tokenizer.pieces)
    return [tag("section", tag("h2", "Memory"), found)]


def _split(data: Mapping[str, Any], position: int, tree: Part) -> Html:
    """How the probability of the chosen word is divided, in a sentence."""
    said = data["next"][position]
    names = {"vocabulary": "the vocabulary head", "pointer": "votes of edges", "memory": "memory"}
    parts = tree.parts if tree.path == "p" else (tree,)
    shares = " and ".join(f"{part.share:.1%} by {names[part.path]}" for part in parts)
    here = "".join(data["tokens"][max(0, position - 5) : position + 1])
    return tag(
        "p",
        "After “",
        here.replace("\n", " ").strip(),
        "” the model expects “",
        tag("span", said["word"].strip() or "↵", class_="word"),
        f"” with {said['p']:.1%}. Of that, {shares} is given. The text below is coloured by what "
        "its tokens give through the edges to them, in votes and in every layer.",
    )


def _internals(reader: Reader) -> Html:
    rows = [
        tag("tr", tag("td", tag("code", name)), tag("td", tag("code", shape)))
        for name, shape in internals(reader.model).items()
    ]
    return tag(
        "section",
        tag("h2", "Internals"),
        tag(
            "p",
            "Names for run_with_cache(model, ids, names), and for zero, mean and patch in "
            "intervene(model, …).",
        ),
        tag(
            "details",
            tag("summary", f"{len(rows)} names with their shapes"),
            tag("div", tag("table", rows, class_="names"), class_="scroll"),
        ),
    )
