"""WordNet's database files, as wndb(5WN) and morphy(7WN) describe them.

    index.noun   lemma, and its synsets, the sense most frequent in tagged text first
    data.noun    synset: words | definition; "an example"; "another"
    noun.exc     irregular forms: "mice mouse"

The text of `data` is all that is read of a synset; its relations to others are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ENCODING = "utf-8"
POS = ("noun", "verb", "adj", "adv")
# Endings of inflected forms, and what they stand for.
ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
        *(("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
_QUOTED = re.compile(r'"([^"]*)"')
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand

Files = Mapping[str, bytes]
"""Contents by file name, as `index.noun`."""


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, in lower case with spaces, and its gloss."""

    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def read_synsets(files: Files, pos: str) -> dict[int, Synset]:
    """The synsets of a part of speech by their offset in the file. ValueError if it is none."""
    return dict(_synset(line) for line in _lines(files, f"data.{pos}"))


def read_index(files: Files, pos: str) -> dict[str, tuple[int, ...]]:
    """The offsets of each lemma's synsets, in the order of its senses."""
    found = {}
    for line in _lines(files, f"index.{pos}"):
        lemma, _, count, *rest = line.split()
        found[lemma.replace("_", " ")] = tuple(int(offset) for offset in rest[-int(count) :])
    return found


def read_exceptions(files: Files, pos: str) -> dict[str, tuple[str, ...]]:
    """The base forms of irregular ones."""
    found = {}
    for line in _lines(files, f"{pos}.exc"):
        form, *bases = (word.replace("_", " ") for word in line.split())
        found[form] = tuple(bases)
    return found


def base_forms(word: str, pos: str, exceptions: Mapping[str, tuple[str, ...]]) -> set[str]:
    """What a word in lower case may be a form of; itself among them."""
    if word in exceptions:
        return {word, *exceptions[word]}
    endings = ENDINGS[pos]
    return {word} | {word[: -len(a)] + b for a, b in endings if word.endswith(a) and word != a}


def glosses(files: Files, pos: str) -> str:
    """The dictionary as a text: a line a synset."""
    return "\n".join(
        f"{', '.join(s.words)}: {'; '.join((s.definition, *s.examples))}"
        for s in read_synsets(files, pos).values()
    )


def _lines(files: Files, name: str) -> list[str]:
    if name not in files:
        raise ValueError(f"WordNet has a file {name}, found {sorted(files)}")
    # The licence at the top is indented.
    lines = files[name].decode(ENCODING).splitlines()
    return [line for line in lines if line and not line.startswith(" ")]


def _synset(line: str) -> tuple[int, Synset]:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    count = int(fields[3], 16)
    words = (_MARKER.sub("", w).replace("_", " ").lower() for w in fields[4 : 4 + 2 * count : 2])
    definition = _QUOTED.sub("", gloss).strip(" ;:-")
    examples = tuple(e.strip() for e in _QUOTED.findall(gloss) if e.strip())
    return int(fields[0]), Synset(tuple(words), " ".join(definition.split()), examples)
