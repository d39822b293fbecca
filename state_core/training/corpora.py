"""Text by name or by path, split by document into train, valid and test.

    corpus = load_corpus("shakespeare")
    corpus.train[0].name, corpus.words("valid")

A named corpus brings its own split. Files of your own are split by document with a seed; fewer
than three of them are each cut into contiguous parts instead. Nothing that is held out may also be
in the training text: near-duplicates across splits are refused.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from state_core.errors import DataError, nearest
from state_core.training.archives import read_documents
from state_core.training.duplicates import refuse_near_duplicates
from state_core.training.manifests import (
    Manifest,
    Report,
    fetch_archive,
    load_manifest,
    manifest_names,
)
from state_core.training.own_files import Document, is_path, read_own_files

PARTS = ("train", "valid", "test")
HELD_OUT = 0.05  # share of the characters in valid, and in test, of the user's own text


@dataclass(frozen=True)
class Corpus:
    """Documents by split. `note` says how the split was made."""

    source: str
    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    test: tuple[Document, ...]
    note: str

    def part(self, name: str) -> tuple[Document, ...]:
        """The documents of `train`, `valid` or `test`."""
        if name not in PARTS:
            raise DataError(f"no split is named {name!r}: {nearest(name, PARTS)}")
        documents: tuple[Document, ...] = getattr(self, name)
        return documents

    def require(self, name: str) -> tuple[Document, ...]:
        """The documents of a split; DataError if it has none, as where all is held out."""
        if documents := self.part(name):
            return documents
        present = [part for part in PARTS if self.part(part)]
        advice = (
            "train on another corpus and evaluate on this one"
            if name == "train"
            else f"take {' or '.join(present)} instead"
        )
        raise DataError(
            f"the corpus {self.source!r} has no {name} part, only {', '.join(present)}: {advice}"
        )

    def words(self, name: str) -> int:
        """How many words, separated by spaces, a split has."""
        return sum(len(document.text.split()) for document in self.part(name))

    @property
    def fingerprint(self) -> str:
        """sha256 of all names and texts by split, in hex."""
        digest = hashlib.sha256()
        for name in PARTS:
            for document in self.part(name):
                digest.update(json.dumps([name, *document]).encode())
        return digest.hexdigest()


def load_corpus(source: str, split_seed: int = 0, report: Report = lambda message: None) -> Corpus:
    """The corpus of a name, a file, a folder or a glob; fetched if it is named and not cached.

    DataError if it cannot be had, is not text, or a held-out document is in the training text.
    """
    if source in manifest_names():
        corpus = read_archive(load_manifest(source), report)
    elif is_path(source):
        corpus = _refuse_empty_parts(_split_own(source, read_own_files(source), split_seed))
    else:
        hint = nearest(source, manifest_names())
        raise DataError(f"no corpus or file is named {source!r}: {hint}")
    refuse_near_duplicates({name: corpus.part(name) for name in PARTS})
    return corpus


def fetch(name: str, report: Report = lambda message: None) -> Corpus:
    """Fetch a named corpus into the cache, check it and read it."""
    return read_archive(load_manifest(name), report)


def list_corpora() -> list[dict[str, Any]]:
    """A row for each named corpus: name, title, documents, words, licence, cached."""
    fields = {"name", "title", "description", "documents", "words", "licence"}
    manifests = [load_manifest(name) for name in manifest_names()]
    return [{**m.model_dump(include=fields), "cached": m.cached} for m in manifests]


def describe(source: str, split_seed: int = 0) -> list[tuple[str, str]]:
    """What there is to say about a corpus, as (label, value) rows. Fetches nothing."""
    rows = []
    if source in manifest_names():
        manifest = load_manifest(source)
        rows += [
            ("title", manifest.title),
            ("what", manifest.description),
            ("package", f"{manifest.package} {manifest.version} ({manifest.registry})"),
            ("sha256", manifest.sha256),
            ("licence", manifest.licence),
            ("archive", str(manifest.path) if manifest.cached else "not fetched yet"),
        ]
        if not manifest.cached:
            return [*rows, ("size", f"{manifest.documents} documents, {manifest.words:,} words")]
    corpus = load_corpus(source, split_seed)
    rows += [(part, _size(corpus, part)) for part in PARTS]
    return [*rows, ("split", corpus.note), ("fingerprint", corpus.fingerprint)]


def read_archive(manifest: Manifest, report: Report = lambda message: None) -> Corpus:
    """The documents of a named corpus, read from its archive without unpacking it."""
    path = fetch_archive(manifest, report)
    documents = read_documents(manifest, path)
    if len(documents) != manifest.documents:
        raise DataError(
            f"the corpus {manifest.name!r} should have {manifest.documents} documents, "
            f"but {path} has {len(documents)}"
        )
    parts: dict[str, list[Document]] = {name: [] for name in PARTS}
    for document in documents:
        parts[manifest.split.part_of(document.name)].append(document)
    note = "fixed, by document" if manifest.split.valid_from is None else "by year"
    return _corpus(manifest.name, parts, note)


def _split_own(source: str, documents: list[Document], seed: int) -> Corpus:
    if len(documents) >= len(PARTS):
        note = f"by document, with seed {seed}"
        return _corpus(source, _by_document(documents, seed), note)
    parts: dict[str, list[Document]] = {name: [] for name in PARTS}
    for document in documents:
        for part, piece in zip(PARTS, _contiguous(document.text), strict=True):
            parts[part].append(Document(f"{document.name}[{part}]", piece))
    note = "contiguous parts of each file (fewer than three files): first 90 %, then 5 % and 5 %"
    return _corpus(source, parts, note)


def _by_document(documents: Sequence[Document], seed: int) -> dict[str, list[Document]]:
    """Held-out parts take whole documents, in a seeded order, until they have their share."""
    share = HELD_OUT * sum(len(document.text) for document in documents)
    order = list(documents)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda d: len(d.text) == max(len(e.text) for e in documents))  # longest last
    parts: dict[str, list[Document]] = {}
    for part, others in (("test", 2), ("valid", 1)):
        taken = [order.pop(0)]
        while len(order) > others and sum(len(d.text) for d in taken) < share:
            taken.append(order.pop(0))
        parts[part] = sorted(taken)
    return {"train": sorted(order), **parts}


def _contiguous(text: str) -> tuple[str, str, str]:
    """Cut at the line end, or else the space, before each border."""
    first, second = (_border(text, 1 - k * HELD_OUT) for k in (2, 1))
    return text[:first], text[first:second].lstrip(), text[second:].lstrip()


def _border(text: str, share: float) -> int:
    border = int(len(text) * share)
    near = max(0, border - len(text) // 50)
    for separator in ("\n", " "):
        if (found := text.rfind(separator, near, border)) >= 0:
            return found + 1
    return border


def _corpus(source: str, parts: dict[str, list[Document]], note: str) -> Corpus:
    train, valid, test = (tuple(parts[name]) for name in PARTS)
    return Corpus(source, train, valid, test, note)


def _refuse_empty_parts(corpus: Corpus) -> Corpus:
    for name in PARTS:
        if not any(document.text.strip() for document in corpus.part(name)):
            raise DataError(f"the {name} part of {corpus.source!r} is empty: give more text")
    return corpus


def _size(corpus: Corpus, part: str) -> str:
    documents = corpus.part(part)
    if not documents:
        return "none"
    characters = sum(len(document.text) for document in documents)
    noun = "document" if len(documents) == 1 else "documents"
    return f"{len(documents)} {noun}, {corpus.words(part):,} words, {characters:,} characters"
