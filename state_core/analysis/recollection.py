"""What a token remembers: passages read long before, why it found them, and what they give.

memory, last = remember(model, ids, 8192)        # all but the last segment of a text
out = model(torch.tensor([last]), memory=memory, return_graph=True)
recollection(out, memory, position, spell)       # a section of a page
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from state_core.analysis.html import Html, join, tag
from state_core.analysis.passages import columns, concordance, gauge, row
from state_core.memory.text_memory import RecallProvenance, TextMemory
from state_core.output import PredictionExplanation, SOSMOutput
from state_core.pipeline import SOSM

BEFORE, AFTER = 16, 8  # tokens around what is remembered
BLOCKS_SHOWN = 3

Spell = Callable[[Sequence[int]], list[str]]


@torch.no_grad()
def remember(
    model: SOSM,
    ids: Sequence[int],
    capacity: int,
    progress: Callable[[int, int], None] = lambda read, of: None,
) -> tuple[TextMemory, list[int]]:
    """Read a text [N] in segments of the training's length, and remember `capacity` tokens of what
    stands before the last; returns that memory and the last segment, which is not read.

    progress: told of the tokens read and of how many. ConfigError for a model without a memory.
    """
    memory, length = model.new_memory(capacity=capacity), model.config.train.seq_len
    last = max(0, len(ids) - length)
    # A segment begins with the last token of the one before, so that each token is predicted once.
    for start in range(0, last, length - 1):
        part = torch.tensor([ids[start : min(start + length, last + 1)]])
        memory.append(part, model(part, memory=memory).keepsake)
        progress(start + part.shape[1], last)
    return memory, list(ids[last:])


def recollection(out: SOSMOutput, memory: TextMemory, position: int, spell: Spell) -> Html:
    """The items that a token of text 0 found in memory, best first, in their context: what each
    gives to the word expected next, and the blocks that made it similar."""
    found = out.explain_recall(memory, 0, position)
    if not found:
        return tag("p", "Nothing was remembered yet when this token was read.", class_="note")
    explained = None if out.votes is None else out.explain_prediction(0, position)
    sources = () if explained is None else explained.sources
    given = {s.item: s.share for s in sources if s.item is not None}
    said = tag(
        "p",
        f"The {len(found)} most similar of {len(memory):,} remembered tokens, each with the word "
        "that followed it in the middle, and the blocks that make the similarity. ",
        _together(sum(given.values()), explained, spell),
    )
    rows = [_item(one, memory, given.get(one.item.position, 0.0), spell) for one in found]
    table = tag("table", columns("330px"), rows, class_="kwic")
    return tag("div", said, table, class_="prediction")


def _together(share: float, explained: PredictionExplanation | None, spell: Spell) -> Html:
    if explained is None:
        return Html("")
    word = spell([explained.token])[0].strip() or "↵"
    return join(["Of “", tag("span", word, class_="word"), f"” they give {share:.1%}."])


def _item(found: RecallProvenance, memory: TextMemory, share: float, spell: Spell) -> Html:
    item = found.item
    around = memory.passage(0, item.position, BEFORE, AFTER)
    # Where the memory begins, fewer tokens stand before.
    at = len(around) - len(memory.passage(0, item.position, 0, AFTER))
    parts = sorted(found.contributions.items(), key=lambda part: -abs(part[1]))[:BLOCKS_SHOWN]
    blocks = " ".join(f"{name} {amount:+.2f}" for name, amount in parts if amount)
    pieces = spell([*around[: at + 1], item.word, *around[at + 2 :]])
    how = f"token {item.position:,}, {found.similarity:+.2f}: {blocks}"
    return row("source", gauge(share, None), concordance(pieces, at + 1), how)
