"""`sosm generate` and `sosm inspect`: what a trained model does with a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from state_core.cli.console import console, pipe_friendly, status
from state_core.cli.options import Run
from state_core.errors import InputError

if TYPE_CHECKING:
    from state_core.graph import EdgeProvenance, TokenGraph
    from state_core.output import SOSMOutput
    from state_core.training.tokenizer import Tokenizer

LONGEST = 2000  # tokens; the page stays quick
SOURCES = 6
SHOWN = 64  # tokens of a file before what is written


def generate(
    run: Run,
    prompt: Annotated[
        str, typer.Option(help="How the text begins; without it, a new document does.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=0)] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Sample from the k likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the fewest tokens whose probability reaches p."),
    ] = 0.95,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file in place of a prompt: the text to continue.")
    ] = None,
    remember: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the text that a memory holds behind the last segment."),
    ] = None,
) -> None:
    """Continue a text.

    With --remember, a text may be of any length: what is carried is one segment and the memory.

    Examples:

    - sosm generate --run runs/mine --prompt "To be, or" --seed 1
    - sosm generate --run runs/mine --file book.txt --remember 8192
    """
    import torch

    from state_core.training.own_files import read_text
    from state_core.training.run import load_run

    if file is not None and prompt:
        raise typer.BadParameter("give a prompt or a file, and not both", param_hint="--file")
    model, tokenizer = load_run(run)
    # Of a file only the end is shown again: it may be a book.
    begins = read_text(file) if file is not None else prompt
    ids = tokenizer.encode(begins) or [tokenizer.end_of_document]
    memory = None if remember is None else model.new_memory(capacity=remember)
    if file is not None:
        status(f"reading {len(ids):,} tokens of {file}")
    written = model.generate(
        torch.tensor([ids]), max_new_tokens, temperature, top_k, top_p, seed, memory=memory
    )[0].tolist()
    shown = 0 if prompt else len(ids) - SHOWN if file is not None else 1
    pipe_friendly(tokenizer.decode(written[max(shown, 0) :]) + "\n")


def inspect(
    run: Run,
    text: Annotated[str | None, typer.Option(help="The text to look at.")] = None,
    file: Annotated[
        Path | None, typer.Option(help=f"A file with the text; {LONGEST} tokens at most are read.")
    ] = None,
    token: Annotated[
        int | None, typer.Option(help="Explain this token's edges and what it expects next.")
    ] = None,
    edges: Annotated[int, typer.Option(min=0, help="How many of the strongest to list.")] = 12,
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("runs/inspect.html"),
) -> None:
    """Show the graph that a model builds over a text: a table, and a page to explore.

    Examples:

    - sosm inspect --run runs/mine --text "Out, out, brief candle! Out, I say!"
    - sosm inspect --run runs/mine --file scene.txt --token 42
    """
    import torch

    from state_core.analysis.inspect import write_inspection
    from state_core.training.run import load_run

    model, tokenizer = load_run(run)
    ids = tokenizer.encode(_given_text(text, file))[:LONGEST]
    if not ids:
        raise InputError("there is no text to look at: it is empty")
    if token is not None and not 0 <= token < len(ids):
        raise InputError(f"token {token} is out of range: the text has tokens 0 to {len(ids) - 1}")
    with torch.no_grad():
        read = model(torch.tensor([ids]), return_graph=True)
    graph, pieces = read.graph, tokenizer.pieces(ids)
    if graph is None:
        raise InputError(f"the model in {run} builds no graph: graph.enabled is false")
    console.print(_strongest(graph, pieces, edges))
    if token is not None:
        console.print(_row(graph, pieces, token))
        console.print(_expected(read, pieces, token, tokenizer))
    path = write_inspection(read, ids, tokenizer, model.config.state.layout, out, token)
    console.print(f"{len(ids)} tokens, {graph.stats().edges:,} edges. Explore them in {path}")


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


def _expected(out: SOSMOutput, pieces: list[str], token: int, tokenizer: Tokenizer) -> Table:
    """What the model expects after a token, and where that comes from."""
    from rich.text import Text

    log_p = out.logits[0, token].detach().double().log_softmax(-1)
    best = log_p.argmax()
    word = tokenizer.pieces([int(best)])[0]
    table = Table(box=None, pad_edge=False)
    table.add_column("share", justify="right")
    table.add_column(
        f"of “{_shown(word)}”, expected next with {float(log_p[best].exp()):.1%}, is from"
    )
    sources = [] if out.votes is None else out.explain_prediction(0, token).sources
    for source in sources[:SOURCES]:
        where = "the vocabulary head"
        if source.target is not None and source.kind is not None:
            passage = "".join(pieces[max(0, source.target - 4) : source.target + 2])
            kind = source.kind.name.lower()
            where = f"{kind} edge, {token - source.target} back: “{_shown(passage)}”"
        table.add_row(f"{source.share:.1%}", Text(where))
    return table


def _shown(text: str) -> str:
    return text.replace("\n", "↵").strip() or "␣"
