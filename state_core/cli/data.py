"""`sosm data`: the corpora."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from state_core.cli.console import console, status

app = typer.Typer(no_args_is_help=True, help="List, fetch and describe the corpora.")


@app.command("list")
def list_() -> None:
    """List the named corpora.

    Any file, folder or glob is a corpus as well: --data 'my/*.txt'.
    """
    from state_core.training.corpora import list_corpora

    table = Table("name", "what", box=None, pad_edge=False)
    for name in ("documents", "words"):
        table.add_column(name, justify="right")
    table.add_column("fetched")
    for row in list_corpora():
        sizes = (f"{row['documents']:,}", f"{row['words']:,}")
        table.add_row(row["name"], row["description"], *sizes, "yes" if row["cached"] else "no")
    console.print(table)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Named corpora.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Fetch all of them.")] = False,
) -> None:
    """Fetch corpora into the cache and check them; what is there already is only checked.

    Example: sosm data fetch shakespeare kjv
    """
    from state_core.training.corpora import fetch as fetch_corpus
    from state_core.training.manifests import manifest_names

    chosen = manifest_names() if every else names or []
    if not chosen:
        raise typer.BadParameter("name a corpus, or give --all", param_hint="NAMES")
    for name in chosen:
        corpus = fetch_corpus(name, report=status)
        count = len(corpus.train) + len(corpus.valid) + len(corpus.test)
        console.print(f"{name}: {count} {'document' if count == 1 else 'documents'}")


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="A named corpus, or a file, a folder or a glob.")],
    split_seed: Annotated[int, typer.Option(help="Seed of the split of your own files.")] = 0,
) -> None:
    """Describe a corpus: where it comes from, its licence, how it is split.

    Example: sosm data show 'my/*.txt'
    """
    from state_core.training.corpora import describe

    table = Table(show_header=False, box=None, pad_edge=False)
    for label, value in describe(source, split_seed):
        table.add_row(f"[dim]{label}[/]", value)
    console.print(table)
