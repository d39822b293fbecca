from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import CheckpointError, DataError, InputError
from state_core.training.own_files import Document
from state_core.training.tokenizer import Tokenizer, cached_tokenizer, check_vocabulary

TRAINED = Tokenizer.train(["to be or not to be that is the question " * 9], 280)


@given(text=st.text(max_size=60))
def test_decoding_gives_back_any_text(text: str) -> None:
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert all(0 < i < TRAINED.vocab_size for i in ids)


def test_the_name_of_the_special_token_is_plain_text() -> None:
    assert 0 not in TRAINED.encode("<|endofdocument|>")
    assert TRAINED.decode([*TRAINED.encode("be"), 0, *TRAINED.encode("or")]) == "be\n\nor"
    assert TRAINED.pieces([0, *TRAINED.encode(" the")]) == ["<|endofdocument|>", " the"]


def test_documents_are_closed(text_of: Callable[..., str]) -> None:
    ids = TRAINED.encode_documents([Document("a", "to be"), Document("b", "or not")])
    assert ids.tolist() == [*TRAINED.encode("to be"), 0, *TRAINED.encode("or not"), 0]
    assert len(TRAINED.encode_documents([])) == 0


def test_training_is_deterministic_and_saved_whole(
    tmp_path: Path, text_of: Callable[..., str]
) -> None:
    a, b = (Tokenizer.train([text_of(0), text_of(1)], 400) for _ in range(2))
    a.save(tmp_path / "tokenizer.json")
    c = Tokenizer.load(tmp_path)
    assert a.fingerprint == b.fingerprint == c.fingerprint != TRAINED.fingerprint
    assert c.encode("<|endofdocument|> wörd") == a.encode("<|endofdocument|> wörd")


def test_the_cache_is_keyed_by_text_and_size(cache: Path, text_of: Callable[..., str]) -> None:
    documents = [Document("a", text_of(0))]
    messages: list[str] = []
    first = cached_tokenizer(documents, 300, messages.append)
    again = cached_tokenizer([Document("renamed", text_of(0))], 300, messages.append)
    assert first.fingerprint == again.fingerprint
    assert len(messages) == 1
    cached_tokenizer(documents, 310, messages.append)
    cached_tokenizer([Document("a", text_of(1))], 300, messages.append)
    assert len(messages) == 3
    assert len(list((cache / "tokenizers").iterdir())) == 3


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="257"):
        Tokenizer.train(["x"], 256)
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        Tokenizer.load(tmp_path / "bad.json")


def test_a_foreign_vocabulary_is_refused() -> None:
    check_vocabulary(TRAINED, 280, TRAINED.fingerprint)
    check_vocabulary(TRAINED, 4096, None)
    with pytest.raises(CheckpointError, match="280 tokens, but the model knows 279"):
        check_vocabulary(TRAINED, 279)
    with pytest.raises(CheckpointError, match="is not the one that the model was trained with"):
        check_vocabulary(TRAINED, 280, "f" * 64)
