"""`sosm generate`: a trained model continues a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from state_core.cli.console import pipe_friendly, status
from state_core.cli.options import Run

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
