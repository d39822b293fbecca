"""WordNet's files are read as they are documented, and a usage is one only if the word is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from state_core.errors import DataError
from state_core.training import wndb
from state_core.training import wordnet as module
from state_core.training.corpora import read_archive
from state_core.training.manifests import Split
from state_core.training.wordnet import load_wordnet, occurs, read_wordnet, words
from tests.training.test_corpora import ar, archive, manifest
from tests.training.wordnet_files import wordnet_files


def package(cache: Path, files: dict[str, bytes]) -> str:
    """A Debian package of the files in the cache; its sha256."""
    archive(cache / "data.tar.gz", {f"./usr/share/wordnet/{n}": d for n, d in files.items()})
    path = cache / "archives" / "fake-1.0.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ar({"data.tar.gz": (cache / "data.tar.gz").read_bytes()}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


VALUES = {
    "members": "*/share/wordnet/*",
    "encoding": "utf-8",
    "format": "wndb",
    "documents": 4,
    "split": Split(test=wndb.POS),
}


def test_senses_come_in_the_order_of_the_index() -> None:
    wordnet = read_wordnet(wordnet_files())
    assert set(wordnet.senses) == {("bank", "noun"), ("mouse", "noun")}
    money, land = wordnet.senses["bank", "noun"]
    assert money.definition == "an institution that keeps money"
    assert land.words == ("bank", "riverbank")
    assert land.examples == ("he sat on the bank of the river", "grass grows on riverbanks")


def test_a_usage_holds_some_form_of_its_word() -> None:
    found = [(u.word[0], u.text, u.sense) for u in read_wordnet(wordnet_files()).usages]
    assert found == [
        ("bank", "he sat on the bank of the river", 1),  # not that of riverbanks
        ("bank", "she asked two banks for a loan of money", 0),
        ("mouse", "the mice ate the cheese", 0),
        ("mouse", "click the mouse", 1),
    ]


def test_a_sample_takes_whole_words_in_a_seeded_order() -> None:
    wordnet = read_wordnet(wordnet_files())
    assert len(wordnet.sample(1)) == len({u.text for u in wordnet.sample(1)}) == 2
    assert len({u.word for u in wordnet.sample(1)}) == 1
    assert len(wordnet.sample(100)) == 4
    assert wordnet.sample(1, seed=3) == wordnet.sample(1, seed=3)
    assert len({wordnet.sample(1, seed=s)[0].word for s in range(8)}) == 2


@pytest.mark.parametrize(
    ("lemma", "pos", "text", "there"),
    [
        ("bank", "noun", "The bank's doors", True),
        ("bank", "noun", "embankments", False),
        ("go", "verb", "she went, he goes", True),
        ("love", "verb", "loving it", True),
        ("try", "verb", "he tries", True),
        ("look up", "verb", "he looked up the word", True),
        ("look up", "verb", "he looked it up", False),
        ("big", "adj", "bigger", False),  # doubled letters are among the exceptions
        ("large", "adj", "the largest", True),
    ],
)
def test_forms_of_words(lemma: str, pos: str, text: str, there: bool) -> None:
    assert occurs((lemma, pos), text, {"went": ("go",)} if pos == "verb" else {}) is there


def test_words_are_lower_case_and_keep_what_is_inside_them() -> None:
    assert words('"Red-hot," said the dog\'s owner.') == ["red-hot", "said", "the", "dog", "owner"]


def test_markers_and_quotes_are_no_part_of_words_and_definitions() -> None:
    files = wordnet_files()
    (able,) = wndb.read_synsets(files, "adj").values()
    assert able.words == ("able",)
    assert able.definition == "having the means"
    (well,) = wndb.read_synsets(files, "adv").values()
    assert (well.definition, well.examples) == ("", ("the work goes well",))


def test_the_dictionary_is_a_corpus_that_is_all_held_out(cache: Path) -> None:
    corpus = read_archive(manifest(package(cache, wordnet_files()), **VALUES))
    assert not corpus.train
    assert [d.name for d in corpus.test] == ["adj", "adv", "noun", "verb"]
    assert corpus.test[3].text == "look up: seek; he looked up the word"


def test_wordnet_is_read_from_its_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = manifest(package(cache, wordnet_files()), **VALUES)
    monkeypatch.setattr(module, "load_manifest", lambda name: whole)
    assert load_wordnet() == read_wordnet(wordnet_files())
    files = wordnet_files()
    del files["index.verb"]
    partial = manifest(package(cache, files), **VALUES)
    monkeypatch.setattr(module, "load_manifest", lambda name: partial)
    with pytest.raises(DataError, match=r"cannot read WordNet .*index\.verb"):
        load_wordnet()
