"""The page of `sosm inspect`: one text, its graph and what each token expects next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from state_core.analysis.explorer import SCRIPT, expectations, explorer, graph_data
from state_core.analysis.html import page, tag
from state_core.atomic import atomic_write_text
from state_core.errors import InputError
from state_core.output import SOSMOutput

if TYPE_CHECKING:
    from state_core.training.tokenizer import Tokenizer


def write_inspection(
    out: SOSMOutput,
    ids: Sequence[int],
    tokenizer: Tokenizer,
    sources: Mapping[str, str],
    path: str | Path,
    chosen: int | None = None,
) -> Path:
    """Write the page of a text with token ids [T], from what `model(ids, return_graph=True)` gave.

    sources: what each block of the state is computed from; chosen: the token selected at first.
    InputError without a graph.
    """
    if out.graph is None:
        raise InputError("there is no graph to look at: call model(ids, return_graph=True)")
    data = graph_data(out.graph, 0, tokenizer.pieces(ids), sources)
    data["next"] = expectations(out, 0, ids, tokenizer.pieces)
    text = page(
        "The graph of a text",
        tag("h1", "The graph of a text"),
        explorer("graph", data, chosen),
        scripts=[SCRIPT],
    )
    atomic_write_text(path, text)
    return Path(path)
