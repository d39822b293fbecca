"""`sosm memory`: the memories on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from state_core.cli.console import console

app = typer.Typer(no_args_is_help=True, help="Look at memories on disk.")


@app.command()
def info(path: Annotated[Path, typer.Argument(help="The folder of a memory.")]) -> None:
    """Check a memory's files, and show what they hold as of now; it may be in use.

    Example: sosm memory info runs/mine/memory
    """
    from state_core import memory

    manifest, stats = memory.info(path)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("[dim]kind[/]", manifest.kind)
    table.add_row("[dim]vectors[/]", f"{manifest.dim} wide, {manifest.space}")
    for name, value in (asdict(stats) | manifest.parameters).items():
        table.add_row(f"[dim]{name}[/]", f"{value:,}")
    for name, version in manifest.libraries.items():
        table.add_row("[dim]written by[/]", f"{name} {version}")
    table.add_row("[dim]snapshot[/]", manifest.snapshot)
    for name, digest in manifest.files.items():
        table.add_row(f"[dim]  {name}[/]", f"sha256 {digest[:16]}…")
    console.print(table)
