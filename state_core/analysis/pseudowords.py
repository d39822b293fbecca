"""Pseudowords (Gale et al., 1992; Schütze, 1992): senses in real text whose labels are exact.

Two words are read as one: wherever the second stands, the model is given the first, so that it sees
the same token for either, and only the context tells which of them was meant.

    task = PseudowordTask.of(tokenizer, learn_ids, test_ids)
    task.accuracy(task.read(model)["hidden"])

A model that shall know the pseudowords as words of its language is trained on `task.merged(ids)`.

Words come in pairs of like frequency, each meaning as often as the other, so that one in two is
right by chance. A logistic regression for each pair learns from occurrences in some documents and
is asked about those in others. Baselines see the words before the pseudoword: a bag of random
vectors under the same probe, and simplified Lesk, the words in common with the occurrences learnt.

P pseudowords, O occurrences of all of them, L tokens of a window, d width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from state_core.analysis.readings import BATCH_TOKENS, random_vectors, readings
from state_core.errors import DataError, MissingExtraError
from state_core.pipeline import Backbone
from state_core.training.tokenizer import Tokenizer

BEFORE, AFTER = 64, 16  # tokens of a window; what comes after tells only who reads both sides
NEAR = 16  # tokens before the pseudoword that baselines take for its context
SHORTEST = 4  # letters of a word
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PseudowordTask:
    """words [P,2]: the ids of each pair, read as the first, and their names; windows [O,L], the
    pseudoword at BEFORE; pair [O]: which one it is; meant [O]: 0 or 1, the word that stood there;
    learnt [O]: whether a probe learns from it or is asked about it."""

    words: Ids
    names: tuple[tuple[str, str], ...]
    windows: Tensor
    pair: Tensor
    meant: Tensor
    learnt: Tensor

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        learn: Ids,
        test: Ids,
        pairs: int = 16,
        each: int = 32,
        seed: int = 0,
    ) -> PseudowordTask:
        """Occurrences in two rows of ids: `each` of either word of a pair, in both rows.

        Of the words that occur often enough, the rarest are taken. DataError if there are too few.
        """
        rows = (learn, test)
        where = [_occurrences(row, tokenizer) for row in rows]
        often = {
            word: min(len(found.get(word, ())) for found in where)
            for word in where[0].keys() & where[1].keys()
        }
        fit = sorted((n, word) for word, n in often.items() if n >= each)[: 2 * pairs]
        if len(fit) < 2 * pairs:
            raise DataError(
                f"{pairs} pseudowords of {each} occurrences of each word need {2 * pairs} words, "
                f"and the text has {len(fit)}: give more text, or ask for fewer"
            )
        chosen = [word for _, word in fit]
        rng = np.random.default_rng(seed)
        parts: list[tuple[Ids, int, int, bool]] = []
        for p, both in enumerate(zip(chosen[0::2], chosen[1::2], strict=True)):
            for row, found, learnt in zip(rows, where, (True, False), strict=True):
                for meant, word in enumerate(both):
                    for at in rng.choice(found[word], each, replace=False):
                        window = row[at - BEFORE : at + AFTER].copy()
                        window[np.isin(window, both)] = both[0]
                        parts.append((window, p, meant, learnt))
        windows, pair, meant_, learnt_ = zip(*parts, strict=True)
        pieces = [piece.strip() for piece in tokenizer.pieces(chosen)]
        names = tuple(zip(pieces[0::2], pieces[1::2], strict=True))
        labels = (torch.tensor(part) for part in (pair, meant_, learnt_))
        words = np.array(chosen).reshape(-1, 2)
        return cls(words, names, torch.from_numpy(np.stack(windows)), *labels)

    def merged(self, ids: Ids) -> Ids:
        """A text in which the words of each pair are one."""
        changed = ids.copy()
        for first, second in self.words:
            changed[ids == second] = first
        return changed

    def read(
        self, model: Backbone, watch: Callable[[int], None] = lambda texts: None
    ) -> dict[str, Tensor]:
        """What a model makes of each pseudoword, [O,d], by kind (`analysis.readings`)."""
        found: dict[str, list[Tensor]] = {}
        for windows in self.windows.split(BATCH_TOKENS // self.windows.shape[1]):
            for kind, vectors in readings(model, windows).items():
                found.setdefault(kind, []).append(vectors[:, BEFORE].clone())
            watch(len(windows))
        return {kind: torch.cat(parts) for kind, parts in found.items()}

    def at_random(self, seed: int = 0) -> Tensor:
        """Random vectors of the words before, [O,64]."""
        return random_vectors(self._contexts(), seed=seed)

    def accuracy(self, vectors: Tensor) -> float:
        """The mean over the pseudowords of a probe's accuracy on `vectors` [O,d]."""
        right = [self._probe(vectors[self.pair == p].double(), p) for p in range(len(self.names))]
        return float(np.mean(right))

    def by_overlap(self) -> float:
        """The accuracy of simplified Lesk: each word of the context says what share of the
        occurrences learnt that have it meant the one word or the other. Ties share."""
        bags = [set(row) for row in self._contexts()]
        size = 1 + int(self.windows.max())
        right = 0.0
        for p in range(len(self.names)):
            mine = (self.pair == p).nonzero()[:, 0].tolist()
            seen = np.zeros((2, size))
            for o in (o for o in mine if self.learnt[o]):
                seen[int(self.meant[o]), list(bags[o])] += 1
            share = seen / seen.sum(0).clip(min=1)
            for o in (o for o in mine if not self.learnt[o]):
                scores, meant = share[:, sorted(bags[o])].sum(1), int(self.meant[o])
                right += float(1 + np.sign(scores[meant] - scores[1 - meant])) / 2
        return right / int((~self.learnt).sum())

    def _contexts(self) -> list[list[int]]:
        found: list[list[int]] = self.windows[:, BEFORE - NEAR : BEFORE].tolist()
        return found

    def _probe(self, x: Tensor, p: int) -> float:
        try:
            from sklearn.linear_model import LogisticRegression
            from sklearn.preprocessing import StandardScaler
        except ImportError:
            raise MissingExtraError("scikit-learn", "analysis", "probing for senses") from None
        mine = self.pair == p
        learnt, meant = self.learnt[mine], self.meant[mine].numpy()
        scale = StandardScaler().fit(x[learnt].numpy())
        given, asked = scale.transform(x[learnt].numpy()), scale.transform(x[~learnt].numpy())
        probe = LogisticRegression(C=0.01, max_iter=1000).fit(given, meant[learnt.numpy()])
        return float(probe.score(asked, meant[(~learnt).numpy()]))


def _occurrences(ids: Ids, tokenizer: Tokenizer) -> dict[int, Ids]:
    """Where each token that is a whole word stands, with room for a window around it."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    whole = np.array([is_word(piece) for piece in pieces])
    ends = np.array([not piece[:1].isalpha() for piece in pieces])
    at = np.arange(BEFORE, len(ids) - AFTER)
    at = at[whole[ids[at]] & ends[ids[at + 1]]]
    order = ids[at].argsort(kind="stable")
    found, starts = np.unique(ids[at][order], return_index=True)
    return dict(zip(found.tolist(), np.split(at[order], starts[1:]), strict=True))


def is_word(piece: str) -> bool:
    """Whether a piece of text is what pseudowords are made of: a whole word in small letters."""
    word = piece[1:]
    return piece[:1] == " " and word.isalpha() and word.islower() and len(word) >= SHORTEST
