"""WordNet's senses and their usage examples: text in which a word's sense is known.

    wordnet = load_wordnet()
    wordnet.senses["bank", "noun"]     # in WordNet's order, the most frequent first
    wordnet.usages                     # examples of words of two senses or more

An example illustrates a synset. It counts as a usage of each of the synset's words that occurs in
it, in any form, and that has other senses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from state_core.errors import DataError
from state_core.training.archives import read_members
from state_core.training.manifests import Report, fetch_archive, load_manifest
from state_core.training.wndb import (
    POS,
    Files,
    Synset,
    base_forms,
    read_exceptions,
    read_index,
    read_synsets,
)

Word = tuple[str, str]
"""A lemma and its part of speech."""
WORDS = re.compile(r"[^\W_]+(?:[-'./][^\W_]+)*")


@dataclass(frozen=True)
class Usage:
    """An example of a word, and which of its senses, from 0, is meant."""

    word: Word
    text: str
    sense: int


@dataclass(frozen=True)
class WordNet:
    """The words of two senses or more, and the examples of them."""

    senses: dict[Word, tuple[Synset, ...]]
    usages: tuple[Usage, ...]

    def sample(self, count: int, seed: int = 0) -> list[Usage]:
        """At least `count` usages, if there are as many: all of each word, words in a seeded
        order."""
        of: dict[Word, list[Usage]] = {}
        for usage in self.usages:
            of.setdefault(usage.word, []).append(usage)
        order = sorted(of)
        random.Random(seed).shuffle(order)
        found: list[Usage] = []
        while order and len(found) < count:
            found += of[order.pop()]
        return found


def load_wordnet(report: Report = lambda message: None) -> WordNet:
    """WordNet from its archive, fetched if it is not cached. DataError if it cannot be had."""
    manifest = load_manifest("wordnet")
    path = fetch_archive(manifest, report)
    members = read_members(manifest, path)
    try:
        return read_wordnet({member.name: data for member, data in members.items()})
    except (ValueError, KeyError) as error:
        raise DataError(f"cannot read WordNet in {path}: {error}") from error


def read_wordnet(files: Files) -> WordNet:
    """The senses and usages in WordNet's database files. ValueError if one is missing."""
    senses: dict[Word, tuple[Synset, ...]] = {}
    usages: list[Usage] = []
    for pos in POS:
        synsets, exceptions = read_synsets(files, pos), read_exceptions(files, pos)
        index = read_index(files, pos).items()
        ambiguous = {(lemma, pos): offsets for lemma, offsets in index if len(offsets) > 1}
        for word, offsets in ambiguous.items():
            senses[word] = tuple(synsets[offset] for offset in offsets)
        for word, offset, text in _examples(synsets, pos):
            if word in ambiguous and occurs(word, text, exceptions):
                usages.append(Usage(word, text, ambiguous[word].index(offset)))
    return WordNet(senses, tuple(usages))


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower().removesuffix("'s") for word in WORDS.findall(text)]


def occurs(word: Word, text: str, exceptions: dict[str, tuple[str, ...]]) -> bool:
    """Whether some form of a word, which may be several, stands in a text."""
    lemma, pos = word
    parts, there = lemma.split(" "), words(text)
    if len(parts) == 1:
        return any(lemma in base_forms(w, pos, exceptions) for w in there)
    return any(
        all(p in base_forms(w, pos, exceptions) for p, w in zip(parts, there[k:]))
        for k in range(len(there) - len(parts) + 1)
    )


def _examples(synsets: dict[int, Synset], pos: str) -> Iterator[tuple[Word, int, str]]:
    for offset, synset in synsets.items():
        lemmas: Iterable[str] = dict.fromkeys(synset.words)
        for lemma in lemmas:
            for text in synset.examples:
                yield (lemma, pos), offset, text
