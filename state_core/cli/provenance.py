"""`sosm provenance`: what the blocks of a model's state do in a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from state_core.cli.console import bar, console, status
from state_core.cli.options import Run

PIECES = 8  # of a split that is one document
LONGEST = 16  # characters of a token, more than any text has on average


def provenance(
    run: Run,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    data: Annotated[
        str | None, typer.Option(help="Read this corpus instead of the run's own.")
    ] = None,
    documents: Annotated[int, typer.Option(min=2, help="How many to read, the first ones.")] = 16,
    tokens: Annotated[
        int, typer.Option(min=16, help="Tokens read of each, from its start.")
    ] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of the untrained model to compare with.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("runs/provenance.html"),
) -> None:
    """Show which blocks of the state make the edges of the graph, and what each block encodes.

    What it encodes is asked by linear probes against known labels, on held-out text, beside the
    commonest label and an untrained model.

    Examples:

    - sosm provenance --run runs/mine
    - sosm provenance --run runs/mine --split train --documents 32 --tokens 4096
    """
    from state_core.analysis.block_probes import probe_blocks
    from state_core.analysis.provenance import block_shares
    from state_core.analysis.provenance_plots import write_provenance
    from state_core.training.corpora import load_corpus
    from state_core.training.run import load_run

    model, tokenizer = load_run(run)
    config = model.config.override({"data.source": data}) if data else model.config
    texts = load_corpus(config.data.source, config.data.split_seed, status).require(split)
    # A book is not encoded whole for its first pages.
    ids = [tokenizer.encode(text.text[: LONGEST * tokens])[:tokens] for text in texts[:documents]]
    if len(texts) == 1:
        status(f"the {split} part is one document, cut into {PIECES} pieces")
        whole = tokenizer.encode(texts[0].text)[: PIECES * tokens]
        length = max(len(whole) // PIECES, 1)
        ids = [whole[n * length : (n + 1) * length] for n in range(PIECES)]
    with bar("reading", len(ids)) as progress:
        shares = block_shares(model, ids, progress=progress)
    console.print(shares.table())
    with bar("probing", 1) as progress:
        probes = probe_blocks(model, ids, seed=seed, progress=progress)
    console.print(probes.table())
    about = f"{run}: {len(ids)} documents of {config.data.source}, {split}"
    console.print(f"Drawn in {write_provenance(shares, probes, out, about)}", soft_wrap=True)
