"""`sosm inspect`: what a trained model makes of a text, in a terminal, a report or a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from state_core.cli.console import bar, console, status
from state_core.cli.options import Run
from state_core.errors import InputError

if TYPE_CHECKING:
    from state_core.analysis.explorer import Reader
    from state_core.graph import EdgeProvenance, TokenGraph
    from state_core.output import SOSMOutput, Source

SOURCES = 6


def inspect(
    run: Run,
    text: Annotated[str | None, typer.Option(help="The text to look at.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file with the text; 2000 tokens at most are read.")
    ] = None,
    token: Annotated[
        int | None, typer.Option(help="Explain this token's edges and what it expects next.")
    ] = None,
    remember: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens that a memory holds of a longer text, of which the end is shown."
        ),
    ] = None,
    edges: Annotated[int, typer.Option(min=0, help="How many of the strongest to list.")] = 12,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("runs/inspect.html"),
    with_: Annotated[
        Path | None, typer.Option("--with", help="A second run, to compare its graph.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Explore texts in a browser, and write no report.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Of --serve, on this machine alone; 0: a free one."),
    ] = 8017,
) -> None:
    """Show what a model makes of a text: tables, and a report or an explorer in the browser.

    Examples:

    - sosm inspect --run runs/mine --text "Out, out, brief candle! Out, I say!"
    - sosm inspect --run runs/mine --file scene.txt --token 42
    - sosm inspect --run runs/mine --file book.txt --remember 8192
    - sosm inspect --run runs/mine --with runs/other --serve
    """
    if remember is not None and (serve or with_ is not None):
        raise typer.BadParameter("tells of one model, in a report", param_hint="--remember")
    if serve:
        given = "" if text is None and file is None else _given_text(text, file)
        _serve(run, with_, given, port)
        return
    from state_core.analysis.explorer import LONGEST
    from state_core.analysis.inspect import write_inspection

    written = _given_text(text, file)
    readers = _readers(run, with_)
    tokenizer = readers[0].tokenizer
    ids = tokenizer.encode(written)
    if not ids:
        raise InputError("there is no text to look at: it is empty")
    if remember is None:
        ids = ids[:LONGEST]
    else:
        readers[0], ids = _having_read(readers[0], ids, remember)
    with bar("looking", 1) as progress:
        read = write_inspection(readers, ids, out, token, progress)
    graph, pieces = read.graph, tokenizer.pieces(ids)
    assert graph is not None
    console.print(_strongest(graph, pieces, edges))
    if token is not None:
        console.print(_row(graph, pieces, token))
        console.print(_expected(read, pieces, token, readers[0]))
    console.print(f"{len(ids)} tokens, {graph.stats().edges:,} edges. The report is {out}")


def _having_read(reader: Reader, ids: list[int], capacity: int) -> tuple[Reader, list[int]]:
    """The reader with a memory of all but the end of a text, and that end."""
    from state_core.analysis.recollection import remember

    with bar("reading", 1) as progress:
        memory, last = remember(reader.model, ids, capacity, progress)
    return replace(reader, memory=memory), last


def _serve(run: Path, with_: Path | None, text: str, port: int) -> None:
    from state_core.analysis.serve import serve

    def announce(address: str) -> None:
        console.print(f"Explore texts at {address} (Ctrl-C ends it)")

    readers = _readers(run, with_)
    status("reading a first text, for which kernels are compiled")
    serve(readers, port, text, announce)


def _readers(run: Path, with_: Path | None) -> list[Reader]:
    """The models by the names of their runs' folders, or by their paths if those are the same."""
    from state_core.analysis.explorer import Reader
    from state_core.training.run import load_run

    runs = [run] if with_ is None else [run, with_]
    names = [str(folder.resolve().name) for folder in runs]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in runs]
    return [Reader(name, *load_run(folder)) for name, folder in zip(names, runs, strict=True)]


def _given_text(text: str | None, file: Path | None) -> str:
    from state_core.training.own_files import read_text

    if (text is None) == (file is None):
        raise typer.BadParameter("give a text or a file, and not both", param_hint="--text/--file")
    return read_text(file) if file is not None else text or ""


def _strongest(graph: TokenGraph, pieces: list[str], count: int) -> Table:
    """The strongest semantic edges of a text."""
    from state_core.graph import EdgeKind

    part = graph.subgraph(kinds=[EdgeKind.SEMANTIC])
    order = part.weight.argsort(descending=True, stable=True)[:count]
    table = _table(f"The {len(order)} strongest semantic edges")
    for source, target in part.edge_index[:, order].T.tolist():
        _add_edge(table, graph.explain(0, source, target), pieces)
    return table


def _row(graph: TokenGraph, pieces: list[str], token: int) -> Table:
    """All edges of a token, strongest first within each kind."""
    from state_core.graph import EdgeKind

    table = _table(f"Token {token}, “{_shown(pieces[token])}”, looks at")
    explained = [graph.explain(0, token, j) for j in graph.rows(0, token).neighbors.tolist()]
    first = [EdgeKind.SEMANTIC, EdgeKind.SUCCESSOR, EdgeKind.SHORTCUT, EdgeKind.SEQUENTIAL]
    order = [*first, EdgeKind.RULE, EdgeKind.SINK]
    for edge in sorted(explained, key=lambda e: (order.index(e.kind), -e.weight)):
        _add_edge(table, edge, pieces)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("token", "looks at", "kind"):
        table.add_column(name)
    table.add_column("weight", justify="right")
    table.add_column("blocks")
    table.add_column("why")
    return table


def _add_edge(table: Table, edge: EdgeProvenance, pieces: list[str]) -> None:
    from rich.text import Text

    parts = sorted(edge.contributions.items(), key=lambda item: -abs(item[1]))
    blocks = "  ".join(f"{name} {share:+.2f}" for name, share in parts[:3] if share)
    table.add_row(
        Text(f"{edge.source} {_shown(pieces[edge.source])}"),
        Text(f"{edge.target} {_shown(pieces[edge.target])}"),
        edge.kind.name.lower(),
        f"{edge.weight:+.3f}",
        blocks,
        Text(_why(edge, pieces)),
    )


def _why(edge: EdgeProvenance, pieces: list[str]) -> str:
    """`edge.reason`, short enough for a table."""
    if edge.rank is not None:
        return f"no. {edge.rank} in similarity"
    if edge.via is not None:
        return f"came after {edge.via} {_shown(pieces[edge.via])}"
    back = edge.source - edge.target
    return "one of the first" if edge.kind.name == "SINK" else f"{back} back" if back else "itself"


def _expected(out: SOSMOutput, pieces: list[str], token: int, reader: Reader) -> Table:
    """What the model expects after a token, and where that comes from."""
    from rich.text import Text

    log_p = out.logits[0, token].detach().double().log_softmax(-1)
    best = log_p.argmax()
    word = reader.tokenizer.pieces([int(best)])[0]
    table = Table(box=None, pad_edge=False)
    table.add_column("share", justify="right")
    table.add_column(
        f"of “{_shown(word)}”, expected next with {float(log_p[best].exp()):.1%}, is from"
    )
    sources = [] if out.votes is None else out.explain_prediction(0, token).sources
    for source in sources[:SOURCES]:
        table.add_row(f"{source.share:.1%}", Text(_where(source, pieces, token, reader)))
    return table


def _where(source: Source, pieces: list[str], token: int, reader: Reader) -> str:
    """Where a share of a prediction comes from, with the passage."""
    if source.item is not None and reader.memory is not None:
        passage = reader.tokenizer.decode(reader.memory.passage(0, source.item, 4, 1))
        return f"memory of token {source.item:,}: “{_shown(passage)}”"
    if source.target is not None and source.kind is not None:
        passage = "".join(pieces[max(0, source.target - 4) : source.target + 2])
        kind = source.kind.name.lower()
        return f"{kind} edge, {token - source.target} back: “{_shown(passage)}”"
    return "the vocabulary head"


def _shown(text: str) -> str:
    return text.replace("\n", "↵").strip() or "␣"
