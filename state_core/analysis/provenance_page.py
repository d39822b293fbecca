"""The page of `sosm provenance`: what the blocks of the state do, over a corpus."""

from __future__ import annotations

from pathlib import Path

from state_core.analysis import plot
from state_core.analysis.block_probes import BlockProbes
from state_core.analysis.html import page, tag
from state_core.analysis.plot.look import figures_html
from state_core.analysis.provenance import BlockShares
from state_core.atomic import atomic_write_text


def write_provenance(
    shared: BlockShares, probed: BlockProbes, path: str | Path, about: str = ""
) -> Path:
    """Both figures as a page that holds all it needs. about: a line on what was read."""
    figures = figures_html([plot.block_shares(shared), plot.block_probes(probed)])
    text = page(
        "What the blocks of the state do",
        tag("h1", "What the blocks of the state do"),
        tag("p", about),
        tag("h2", "Their share in semantic edges"),
        tag("p", "By absolute contribution; whiskers: standard deviation over documents."),
        figures[0],
        tag("h2", "What a linear probe reads off them"),
        tag("p", "Accuracy on held-out text, in brackets that of an untrained model; colour: how "
                 "far it is from the rate of the commonest label to certainty."),
        figures[1],
    )  # fmt: skip
    atomic_write_text(path, text)
    return Path(path)
