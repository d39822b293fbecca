"""Where did this word come from? Predictions worth showing, and the earlier passages behind them.

Passages are laid out as a concordance: the word in the middle, its context on both sides (keyword
in context, Luhn 1960).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from state_core.analysis.html import Html, tag
from state_core.output import PredictionExplanation, SOSMOutput

BEFORE, AFTER = 24, 12  # tokens of context; the page cuts what does not fit
SOURCES_SHOWN = 5
WHOLE_WORD = 4  # letters


@dataclass(frozen=True)
class Concordance:
    """A word with what stands around it."""

    left: str
    word: str
    right: str


@dataclass(frozen=True)
class Passage:
    """A share of a prediction. `where` is None for the vocabulary head."""

    share: float
    kind: str | None = None
    distance: int | None = None
    where: Concordance | None = None


@dataclass(frozen=True)
class Prediction:
    """A predicted word, in place, and where its probability came from."""

    position: int
    probability: float
    vocabulary_probability: float
    """What the vocabulary head alone would give the word."""
    here: Concordance
    passages: tuple[Passage, ...]


def explain_next(out: SOSMOutput, b: int, i: int, pieces: Sequence[str], token: int) -> Prediction:
    """How `token`, which is the one at position i + 1 of text b, was predicted after position i."""
    explained = out.explain_prediction(b, i, token)
    passages = tuple(
        Passage(s.share)
        if s.target is None or s.kind is None
        else Passage(s.share, s.kind.name.lower(), i - s.target, concordance(pieces, s.target + 1))
        for s in explained.sources
    )
    return Prediction(
        position=i + 1,
        probability=explained.probability,
        vocabulary_probability=_vocabulary_probability(out, b, i, explained),
        here=concordance(pieces, i + 1),
        passages=passages,
    )


@torch.no_grad()
def telling_predictions(
    out: SOSMOutput,
    ids: Tensor,
    spell: Callable[[Sequence[int]], list[str]],
    recalled: int = 5,
    spoken: int = 1,
) -> list[Prediction]:
    """Correct predictions of whole words of the texts ids [B,T], most telling first: `recalled` in
    which edges gave the most probability, and `spoken` in which the vocabulary head gave nearly
    all. Each word once. spell: ids → the text of each."""
    if out.votes is None:
        return []
    log_p = out.logits[:, :-1].double().log_softmax(-1)
    p, word = log_p.max(-1)
    right = word == ids[:, 1:].to(word.device)
    agree = out.votes.words[:, :-1] == word[..., None]
    voted = torch.where(agree, out.votes.log_share[:, :-1, 1:].double().exp(), 0).sum(-1)
    pieces = [spell(row) for row in ids.tolist()]
    found: list[tuple[int, int]] = []
    taken: set[str] = set()
    for score, count in ((voted, recalled), (p - 2 * voted, spoken)):
        last = len(found) + count
        for b, i in _best_first(torch.where(right, score, -torch.inf)):
            if len(found) == last:
                break
            name = pieces[b][i + 1].lower()
            if name not in taken and is_whole_word(pieces[b], i + 1):
                taken.add(name)
                found.append((b, i))
    return [explain_next(out, b, i, pieces[b], int(word[b, i])) for b, i in found]


def _best_first(score: Tensor) -> Iterator[tuple[int, int]]:
    """Places (b, i) of positive scores [B,T], the highest first."""
    for place in score.flatten().argsort(descending=True, stable=True).tolist():
        b, i = divmod(place, score.shape[1])
        if score[b, i] <= 0:
            return
        yield b, i


def concordance(pieces: Sequence[str], position: int) -> Concordance:
    """The token at `position` and its context."""
    word = pieces[position]
    left = "".join(pieces[max(0, position - BEFORE) : position])
    right = "".join(pieces[position + 1 : position + 1 + AFTER])
    return Concordance(_one_line(left).rstrip(), word.strip() or "↵", _one_line(right))


def prediction_html(prediction: Prediction) -> Html:
    """A block of the page: the sentence that was read, then one line for each source."""
    shown = prediction.passages[:SOURCES_SHOWN]
    rest = sum(p.share for p in prediction.passages[SOURCES_SHOWN:])
    rows = [row("now", "", prediction.here, "the text being read")]
    rows += [_source(p) for p in shown]
    if rest >= 0.005:
        rows.append(row("source", gauge(rest, None), None, "all other passages"))
    return tag(
        "section",
        tag(
            "p",
            "The word ",
            tag("span", prediction.here.word, class_="word"),
            f" was given {_percent(prediction.probability)}, and it came. "
            f"Without the earlier passages it would have been given "
            f"{_percent(prediction.vocabulary_probability)}.",
        ),
        tag("table", columns(), rows, class_="kwic"),
        class_="prediction",
    )


def columns(how: str = "180px") -> Html:
    """Of a concordance; how: the width of the last, which says how a line was found."""
    widths = ("150px", "38%", "auto", how)
    return tag("colgroup", [tag("col", style=f"width:{width}") for width in widths])


def _source(passage: Passage) -> Html:
    share = gauge(passage.share, passage.kind)
    if passage.where is None:
        return row("source", share, None, "the vocabulary head")
    how = f"{passage.kind} edge, {passage.distance} back"
    return row("source", share, passage.where, how)


def row(style: str, share: str, where: Concordance | None, how: str) -> Html:
    """A line of a concordance: a share, the word in its context, and how it was found."""
    left = tag("bdi", where.left) if where else ""
    right = [tag("mark", where.word), tag("span", where.right, class_="right")] if where else ""
    return tag(
        "tr",
        tag("td", share, class_="share"),
        tag("td", left, class_="left"),
        tag("td", right, class_="key"),
        tag("td", how, class_="how"),
        class_=style,
    )


def gauge(share: float, kind: str | None) -> Html:
    """A share as a bar in the colour of a kind of edges, grey for None, and in per cent."""
    colour = f"color:var(--{kind})" if kind else "color:var(--muted)"
    bar = tag("span", class_="gauge", style=f"{colour};width:{max(1, round(80 * share))}px")
    return tag("span", bar, _percent(share))


def _percent(share: float) -> str:
    digits = 0 if share >= 0.0995 else 1 if share >= 0.00095 else 2
    return f"{100 * share:.{digits}f} %"


def is_whole_word(pieces: Sequence[str], i: int) -> bool:
    """Whether a token of four letters or more is a word by itself."""
    word = pieces[i]
    follows = pieces[i + 1][:1] if i + 1 < len(pieces) else " "
    alone = word[:1].isspace() and not follows.isalnum()
    return alone and len(word.strip()) >= WHOLE_WORD and word.strip().isalpha()


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\t", " ")


@torch.no_grad()
def _vocabulary_probability(
    out: SOSMOutput, b: int, i: int, explained: PredictionExplanation
) -> float:
    logits = out.vocabulary_logits(out.hidden[b, i]).double()
    return float(logits.softmax(-1)[explained.token])
