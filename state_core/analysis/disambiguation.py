"""Which sense of a word is meant? Usage examples of WordNet, told apart without any training.

    task = SenseTask.of(load_wordnet().sample(3000), wordnet)
    task.accuracy(task.by_vectors(text_vectors(model, rows)["hidden"]))

A sense is what the dictionary says of it: its definition and its examples, without the one that is
asked about. A method scores every sense of the word, and the best one counts; senses that tie share
the point. Baselines are the sense that is listed first (the most frequent in tagged text) and
simplified Lesk (Kilgarriff & Rosenzweig, LREC 2000), the words that usage and sense have in common.
Where one sense has lost its only example to the question, the others keep theirs, so that a method
that knows nothing may do worse than chance: random vectors say by how much.

Q usages, C senses of all of them, M pairs of a sense and a text of it, N texts, d width of a
vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from state_core.errors import InputError
from state_core.training.wordnet import Usage, WordNet, words

STOP_WORDS = frozenset(
    words(
        "a about all an and any are as at be been but by can could did do does down for from had "
        "has have he her him his how i if in into is it its me my no not of off on one or our out "
        "over she so some someone something than that the their them then there these they this "
        "those to up us was we were what when where which who whom whose will with would you your"
    )
)


@dataclass(frozen=True)
class SenseTask:
    """Usages to tell apart.

    texts: all that is read, N; asked [Q]: the text of each usage; usage [C], gold [C]: of every
    sense, whose it is and whether it is meant; sense [M], text [M]: what is said of the senses.
    """

    usages: tuple[Usage, ...]
    texts: tuple[str, ...]
    asked: Tensor
    usage: Tensor
    gold: Tensor
    sense: Tensor
    text: Tensor

    @classmethod
    def of(cls, usages: Sequence[Usage], wordnet: WordNet) -> SenseTask:
        """The task of some usages. InputError for none."""
        if not usages:
            raise InputError("there are no usages to tell apart: take some of wordnet.usages")
        texts: dict[str, int] = {}
        asked, usage, gold, sense, text = [], [], [], [], []
        for q, one in enumerate(usages):
            asked.append(texts.setdefault(one.text, len(texts)))
            for n, synset in enumerate(wordnet.senses[one.word]):
                usage.append(q)
                gold.append(n == one.sense)
                # A definition that says nothing but its examples is the word itself.
                definition = synset.definition or one.word[0]
                for said in (definition, *(e for e in synset.examples if e != one.text)):
                    sense.append(len(usage) - 1)
                    text.append(texts.setdefault(said, len(texts)))
        parts = (torch.tensor(part) for part in (asked, usage, gold, sense, text))
        return cls(tuple(usages), tuple(texts), *parts)

    def accuracy(self, scores: Tensor) -> float:
        """The share of usages whose sense has the highest of `scores` [C]."""
        best = torch.full((len(self.usages),), -torch.inf, dtype=scores.dtype)
        best = best.scatter_reduce(0, self.usage, scores, "amax")
        chosen = (scores >= best[self.usage]).double()
        ties = torch.zeros(len(self.usages), dtype=torch.double).index_add(0, self.usage, chosen)
        return float((chosen / ties[self.usage])[self.gold].sum() / len(self.usages))

    def by_vectors(self, vectors: Tensor) -> Tensor:
        """Scores [C]: the cosine of the usage with the mean of the sense's texts, of vectors [N,d]
        that are centred first, since what all texts share tells nothing."""
        unit = F.normalize(vectors - vectors.mean(0), dim=-1)
        said = torch.zeros(len(self.usage), unit.shape[1])
        said = F.normalize(said.index_add(0, self.sense, unit[self.text]), dim=-1)
        return (said * unit[self.asked[self.usage]]).sum(-1)

    def by_chance(self) -> Tensor:
        """Scores [C] that are all alike."""
        return torch.zeros(len(self.usage))

    def by_order(self) -> Tensor:
        """Scores [C] of the sense that is listed first."""
        first = torch.ones(len(self.usage), dtype=torch.bool)
        first[1:] = self.usage[1:] != self.usage[:-1]
        return first.float()

    def by_overlap(self) -> Tensor:
        """Scores [C] of simplified Lesk: how many words the usage shares with the sense's texts,
        but for stop words and the word itself."""
        bags = [set(words(text)) - STOP_WORDS for text in self.texts]
        signatures: list[set[str]] = [set() for _ in self.usage]
        for c, n in zip(self.sense.tolist(), self.text.tolist(), strict=True):
            signatures[c] |= bags[n]
        asked = [
            bags[n] - set(usage.word[0].split())
            for n, usage in zip(self.asked.tolist(), self.usages, strict=True)
        ]
        pairs = zip(self.usage.tolist(), signatures, strict=True)
        return torch.tensor([float(len(asked[q] & signature)) for q, signature in pairs])
