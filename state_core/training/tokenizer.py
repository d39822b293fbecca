"""Byte-level BPE, trained on the training text only.

Byte-level, so that no text is out of vocabulary and decoding gives back the bytes that were
encoded (Radford et al. 2019; Sennrich et al., arXiv 1508.07909).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from state_core.atomic import atomic_write_text
from state_core.errors import CheckpointError, DataError, InputError, MissingExtraError
from state_core.training.manifests import Report, cache_dir
from state_core.training.own_files import Document

if TYPE_CHECKING:
    import tokenizers

END_OF_DOCUMENT = "<|endofdocument|>"
BYTES = 256
RECIPE = "byte-level BPE 1"  # part of the cache key: another recipe is another tokenizer


class Tokenizer:
    """Text ↔ token ids. Id 0 ends a document."""

    end_of_document = 0

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.encode_special_tokens = True  # the special token's name in a text is plain text
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size()
        if inner.token_to_id(END_OF_DOCUMENT) != self.end_of_document:
            raise DataError(f"not a tokenizer of this package: id 0 is not {END_OF_DOCUMENT}")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges until there are `vocab_size` tokens; fewer if the text has no more pairs."""
        if vocab_size < BYTES + 1:
            raise InputError(f"a byte-level vocabulary needs at least 257 tokens, got {vocab_size}")
        package = _tokenizers()
        inner = package.Tokenizer(package.models.BPE())
        inner.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def from_text(cls, text: str) -> Tokenizer:
        """Read the JSON that `to_text` gives; DataError if it is none."""
        package = _tokenizers()
        try:
            return cls(package.Tokenizer.from_str(text))
        except DataError:
            raise
        except Exception as error:  # the package raises bare Exception
            raise DataError(f"not a tokenizer: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json, or the one inside a folder."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            return cls.from_text(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, DataError) as error:
            raise DataError(f"cannot read the tokenizer {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json."""
        atomic_write_text(path, self.to_text())

    def to_text(self) -> str:
        """The whole tokenizer as JSON."""
        return str(self._inner.to_str())

    @property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary and the merges, in hex: equal means the same ids."""
        model = json.loads(self.to_text())["model"]
        return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._inner.encode(text).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; an end of a document becomes an empty line."""
        runs: list[list[int]] = [[]]
        for token in ids:
            if token == self.end_of_document:
                runs.append([])
            else:
                runs[-1].append(int(token))
        return "\n\n".join(str(self._inner.decode(run)) for run in runs)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each id alone; bytes that are no whole character show as \\ufffd."""
        return [END_OF_DOCUMENT if i == 0 else str(self._inner.decode([int(i)])) for i in ids]

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.int64]:
        """All documents in one row of ids, each one closed by the end-of-document token."""
        encodings = self._inner.encode_batch_fast([text for _, text in documents])
        end = np.array([self.end_of_document])
        rows = [part for e in encodings for part in (np.array(e.ids, dtype=np.int64), end)]
        return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)


def cached_tokenizer(
    documents: Sequence[Document], vocab_size: int, report: Report = lambda message: None
) -> Tokenizer:
    """The tokenizer of a training text, learnt once and kept in the cache by content."""
    digest = hashlib.sha256(json.dumps([RECIPE, vocab_size]).encode())
    for document in documents:
        digest.update(hashlib.sha256(document.text.encode()).digest())
    path = cache_dir() / "tokenizers" / f"{digest.hexdigest()}.json"
    if path.is_file():
        return Tokenizer.load(path)
    report(f"learning a vocabulary of {vocab_size} tokens")
    tokenizer = Tokenizer.train((document.text for document in documents), vocab_size)
    tokenizer.save(path)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, fingerprint: str | None = None) -> None:
    """CheckpointError if a model of `vocab_size` was not trained with this tokenizer."""
    remedy = "Use the tokenizer.json that lies in the folder of the run or the model"
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model knows {vocab_size}. "
            f"{remedy}"
        )
    if fingerprint is not None and fingerprint != tokenizer.fingerprint:
        raise CheckpointError(
            f"the tokenizer is not the one that the model was trained with, so that its ids mean "
            f"other words ({tokenizer.fingerprint[:12]}, not {fingerprint[:12]}). {remedy}"
        )


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "train", "reading text") from error
    return tokenizers
