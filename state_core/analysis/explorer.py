"""The explorer of a token graph: what the page's script draws, as data, and its markup.

One entry per edge: target, kind, weight, rank, gate, vote and the contribution of each block, so
that the page can say of every edge why it is there and what it does. What one model makes of a text
is a reading; the page compares two. Shapes: T tokens of the text, E edges of a row, N blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from state_core.analysis.html import Html, data_script, join, tag
from state_core.analysis.passages import is_whole_word
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.pointer import Votes
from state_core.memory.text_memory import TextMemory
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM

if TYPE_CHECKING:
    from state_core.training.tokenizer import Tokenizer

SCRIPTS = ("elements.js", "readings.js", "panel.js", "explorer.js")
SOURCES_SHOWN, LEAST_SHARE = 4, 0.01  # of a prediction
LONGEST = 2000  # tokens of a text; the page stays quick
MEMORY = -1  # in place of an edge's kind: what was read before the text

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


@dataclass(frozen=True)
class Reader:
    """A model that reads texts for the page. name: what the page calls it; memory: what it read
    before them."""

    name: str
    model: SOSM
    tokenizer: Tokenizer
    memory: TextMemory | None = None

    def ids(self, text: str) -> list[int]:
        """The ids of a text; InputError if it is empty or of more than `LONGEST` tokens."""
        ids = self.tokenizer.encode(text)
        if not ids:
            raise InputError("there is no text to look at: it is empty")
        if len(ids) > LONGEST:
            raise InputError(
                f"the text has {len(ids):,} tokens, {LONGEST:,} can be shown: take a part of it"
            )
        return ids

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> tuple[SOSMOutput, dict[str, Any]]:
        """What the model makes of ids [T], and the same as plain data, a reading. InputError for a
        model that builds no graph."""
        model = self.model
        if not model.config.graph.enabled:
            raise InputError(f"the model {self.name} builds no graph: graph.enabled is false")
        ids_ = torch.tensor([list(ids)])
        out: SOSMOutput = model(ids_, return_graph=True, memory=self.memory)
        assert out.graph is not None
        spell = self.tokenizer.pieces
        data = graph_data(out.graph, 0, spell(ids), model.config.state.layout, out.votes)
        return out, {"name": self.name, **data, "next": expectations(out, 0, ids, spell)}


def graph_data(
    graph: TokenGraph,
    b: int,
    pieces: Sequence[str],
    sources: Mapping[str, str],
    votes: Votes | None = None,
) -> dict[str, Any]:
    """The rows of text b as plain data.

    pieces: the text of each token; sources: what each block of the state is computed from; votes:
    of the pointer head, if there is one.
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
    told = (*(c.tolist() for c in columns), _gates(graph, mine), _votes(graph, mine, votes))
    for source, target, kind, weight, parts, gate, vote in zip(*told, strict=True):
        rank = ranks[source]
        if kind == EdgeKind.SEMANTIC:
            rank[target] = len(rank) + 1
        nearest = {EdgeKind.SEMANTIC: target, EdgeKind.SUCCESSOR: target - 1}.get(kind, -1)
        numbers = [round(x, 4) for x in parts]
        why = (rank.get(nearest, 0), gate, vote)
        rows[source].append([target, kind, round(weight, 4), *why, *numbers])
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
    sources = _sources(out, b, log_p.argmax(-1))
    expected = []
    for i, (word, text, came) in enumerate(zip(likeliest, words, actual, strict=True)):
        expected.append(
            {
                "word": text,
                "p": round(float(log_p[i, word].exp()), 4),
                "actual": None if came is None else spell([came])[0],
                "p_actual": None if came is None else round(float(log_p[i, came].exp()), 4),
                "sources": sources[i],
            }
        )
    return expected


def _sources(
    out: SOSMOutput, b: int, words: Tensor
) -> list[list[tuple[float, int | None, int | None]]]:
    """Share, target and kind of the largest sources of each of `words` [T], as
    `out.explain_prediction` gives them one by one; what memory gives is one source, of no target
    and kind MEMORY. Empty without a pointer head."""
    if out.votes is None or out.graph is None:
        return [[] for _ in words]
    width = out.graph.neighbors.shape[-1]
    log_share = out.votes.log_share[b].double()
    vocabulary = out.vocabulary_logits(out.hidden[b]).double().log_softmax(-1)
    head = log_share[:, :1] + vocabulary.gather(1, words[:, None])
    voted = log_share[:, 1:].masked_fill(out.votes.words[b] != words[:, None], -torch.inf)
    edges, remembered = voted[:, :width], voted[:, width:].logsumexp(1, keepdim=True)
    parts = torch.cat([head, remembered, edges], 1)
    shares, order = parts.softmax(1).sort(dim=1, descending=True, stable=True)
    found: list[list[tuple[float, int | None, int | None]]] = []
    for i, (row, places) in enumerate(zip(shares.tolist(), order.tolist(), strict=True)):
        best = [(share, n) for share, n in zip(row, places) if share >= LEAST_SHARE]
        found.append(
            [(round(share, 3), *_source(out.graph, b, i, n)) for share, n in best[:SOURCES_SHOWN]]
        )
    return found


def _source(graph: TokenGraph, b: int, i: int, n: int) -> tuple[int | None, int | None]:
    """Target and kind of the n-th source of token i: the head, memory, and its edges in order."""
    if n < 2:
        return None, (None, MEMORY)[n]
    return int(graph.neighbors[b, i, n - 2]), int(graph.kinds[b, i, n - 2])


def explorer(identifier: str, *readings: Mapping[str, Any], chosen: int | None = None) -> Html:
    """The element that the script fills, and its data: one reading of a text, or two to compare.
    chosen: the token selected at first."""
    needs_script = tag("p", "The diagram is drawn by the page's script.", class_="note")
    root = tag("div", needs_script, class_="explorer", data_graph=identifier, data_chosen=chosen)
    return join([root, data_script(identifier, readings)])


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


def _gates(graph: TokenGraph, mine: Tensor) -> list[float | None]:
    """What the TEMPORAL gate gives each edge; None where it does not judge."""
    if graph.log_gates is None:
        return [None] * int(mine.sum())
    judged = graph.kind[mine] == EdgeKind.SEMANTIC
    pairs = zip(graph.gate[mine].tolist(), judged.tolist(), strict=True)
    return [round(gate, 3) if by_gate else None for gate, by_gate in pairs]


def _votes(graph: TokenGraph, mine: Tensor, votes: Votes | None) -> list[float | None]:
    """The share of the next word's probability that each edge gives away; None if it cannot."""
    if votes is None:
        return [None] * int(mine.sum())
    width = graph.neighbors.shape[-1]
    real = torch.arange(width) < graph.counts[..., None]
    shares = votes.log_share[..., 1 : width + 1].detach().exp()[real][mine]
    voters = votes.words[..., :width][real][mine] >= 0
    pairs = zip(shares.tolist(), voters.tolist(), strict=True)
    return [round(share, 4) if speaks else None for share, speaks in pairs]


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
