"""The explorer of a token graph: what the page's script draws, as data, and its markup.

One entry per edge: target, kind, weight, rank and the contribution of each block, so that the page
can say of every edge why it is there. Shapes: T tokens of the text, E edges of a row, N blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from state_core.analysis.html import Html, data_script, join, tag
from state_core.analysis.passages import is_whole_word
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.output import SOSMOutput

SCRIPT = "explorer.js"
SOURCES_SHOWN = 4

BLOCK_NAMES = {
    "I": "identity", "S": "structure", "R1": "syntactic relation", "R2": "semantic relation",
    "C1": "local context", "K": "knowledge", "C2": "global context", "T": "transformation",
    "G": "global", "M": "modality", "D": "discourse", "F": "frame",
    "P": "position", "E": "entity", "A": "affect", "X": "extension",
}  # fmt: skip
SOURCE_NAMES = {
    "token": "the token itself",
    "local": "the last few tokens",
    "long": "running averages of the text so far",
    "position": "its position and the gap since it last occurred",
    "all": "all of these",
}


def graph_data(
    graph: TokenGraph, b: int, pieces: Sequence[str], sources: Mapping[str, str]
) -> dict[str, Any]:
    """The rows of text b as plain data.

    pieces: the text of each token; sources: what each block of the state is computed from.
    """
    starts, ends = graph.edge_index
    mine = starts // graph.num_nodes == b
    shares = graph.contributions[mine]
    used = shares.abs().sum(0).nonzero()[:, 0].tolist()
    shares = shares[:, used]
    i, j = (end[mine] % graph.num_nodes for end in (starts, ends))
    rows: list[list[list[float]]] = [[] for _ in pieces]
    ranks: list[dict[int, int]] = [{} for _ in pieces]  # semantic neighbour → its rank
    columns = (i, j, graph.kind[mine], graph.weight[mine].detach(), shares.detach())
    for source, target, kind, weight, parts in zip(*(c.tolist() for c in columns), strict=True):
        rank = ranks[source]
        if kind == EdgeKind.SEMANTIC:
            rank[target] = len(rank) + 1
        nearest = {EdgeKind.SEMANTIC: target, EdgeKind.SUCCESSOR: target - 1}.get(kind, -1)
        numbers = [round(x, 3) for x in (weight, *parts)]
        rows[source].append([target, kind, numbers[0], rank.get(nearest, 0), *numbers[1:]])
    return {
        "tokens": list(pieces),
        "kinds": [kind.name.lower() for kind in EdgeKind],
        "blocks": [_block(graph.layout[n], sources) for n in used],
        "k": max((len(rank) for rank in ranks), default=0),
        "extent": {"negative": _extent(-shares), "positive": _extent(shares) or 1.0},
        "rows": rows,
    }


@torch.no_grad()
def expectations(out: SOSMOutput, b: int, ids: Sequence[int], spell: Any) -> list[dict[str, Any]]:
    """What each token leads the model to expect next, where that comes from, and what came.

    spell: ids → the text of each. Without a pointer head there are no sources.
    """
    log_p = out.logits[b].double().log_softmax(-1)
    likeliest = log_p.argmax(-1).tolist()
    words = spell(likeliest)
    actual = [*ids[1:], None]
    expected = []
    for i, (word, text, came) in enumerate(zip(likeliest, words, actual, strict=True)):
        sources = [] if out.votes is None else out.explain_prediction(b, i, word).sources
        shown = [s for s in sources if s.share >= 0.01][:SOURCES_SHOWN]
        expected.append(
            {
                "word": text,
                "p": round(float(log_p[i, word].exp()), 4),
                "actual": None if came is None else spell([came])[0],
                "p_actual": None if came is None else round(float(log_p[i, came].exp()), 4),
                "sources": [
                    [round(s.share, 3), s.target, None if s.kind is None else int(s.kind)]
                    for s in shown
                ],
            }
        )
    return expected


def explorer(identifier: str, data: Mapping[str, Any], chosen: int | None = None) -> Html:
    """The element that the script fills, and its data. chosen: the token selected at first."""
    needs_script = tag("p", "The diagram is drawn by the page's script.", class_="note")
    root = tag("div", needs_script, class_="explorer", data_graph=identifier, data_chosen=chosen)
    return join([root, data_script(identifier, data)])


def most_telling(data: Mapping[str, Any]) -> int | None:
    """The token whose semantic edge is the strongest for its distance, to be shown first."""
    best, token = 0.0, None
    for i, row in enumerate(data["rows"]):
        if not is_whole_word(data["tokens"], i):
            continue
        weights = [edge[2] for edge in row if edge[1] == EdgeKind.SEMANTIC]
        score = sum(sorted(weights)[-3:]) * min(1.0, i / (0.6 * len(data["rows"])))
        if score > best:
            best, token = score, i
    return token


def _extent(shares: Tensor) -> float:
    """The largest sum of an edge's positive parts."""
    return round(float(shares.clamp(min=0).sum(-1).max()), 3) if len(shares) else 0.0


def _block(name: str, sources: Mapping[str, str]) -> dict[str, str]:
    source = sources.get(name, "all")
    meaning = BLOCK_NAMES.get(name)
    return {
        "name": name,
        "label": f"{name} {meaning}" if meaning else name,
        "source": source,
        "about": f"computed from {SOURCE_NAMES[source]}",
    }
