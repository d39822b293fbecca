"""The documents inside a corpus's archive, read without unpacking it.

An archive is a tar file, or a Debian package: an `ar` file that holds one.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from state_core.errors import DataError
from state_core.training import wndb
from state_core.training.manifests import Manifest
from state_core.training.own_files import Document
from state_core.training.r_data import read_lazy_lines

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60  # bytes: name 16, date 12, owner 6, group 6, mode 8, size 10, end 2
AR_SIZE = slice(48, 58)


def read_documents(manifest: Manifest, path: Path) -> list[Document]:
    """The documents of a manifest's archive, by name; DataError if it cannot be read."""
    members = read_members(manifest, path)
    try:
        documents = sorted(_documents(manifest, members))
    except ValueError as error:
        raise _unreadable(manifest, path, error) from error
    return [Document(name, _clean(text, manifest.cut)) for name, text in documents]


def read_members(manifest: Manifest, path: Path) -> dict[PurePosixPath, bytes]:
    """What a manifest's archive holds, of the members that it names; DataError if it cannot be
    read."""
    try:
        return dict(_members(path, manifest.members))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise _unreadable(manifest, path, error) from error


def _unreadable(manifest: Manifest, path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read the corpus {manifest.name!r} in {path}: {error}")


def _members(path: Path, pattern: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    source = path.read_bytes()
    packed = _debian_data(source) if source.startswith(AR_MAGIC) else source
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive.getmembers():
            name = PurePosixPath(member.name)
            file = archive.extractfile(member) if name.match(pattern) else None
            if file is not None:
                yield name, file.read()


def _debian_data(package: bytes) -> bytes:
    """The tar file of what a Debian package installs."""
    at = len(AR_MAGIC)
    while header := package[at : at + AR_HEADER]:
        size = int(header[AR_SIZE])
        at += AR_HEADER
        if header.startswith(b"data.tar"):
            return package[at : at + size]
        at += size + size % 2
    raise ValueError("the Debian package holds no data.tar")


def _documents(manifest: Manifest, members: dict[PurePosixPath, bytes]) -> Iterable[Document]:
    if manifest.format == "r_lines":
        return _objects(members)
    if manifest.format == "wndb":
        files = {path.name: data for path, data in members.items()}
        return [Document(pos, wndb.glosses(files, pos)) for pos in wndb.POS]
    if manifest.format == "verses":
        return [book for data in members.values() for book in _books(data, manifest.encoding)]
    return [
        Document(path.name.removesuffix(manifest.suffix), data.decode(manifest.encoding))
        for path, data in members.items()
    ]


def _books(data: bytes, encoding: str) -> Iterable[Document]:
    """One document a book: its name, then its verses, with an empty line before each chapter."""
    books: dict[str, list[str]] = {}
    chapter = None
    for line in data.splitlines():
        verse = json.loads(line.decode(encoding))
        lines = books.setdefault(verse["book"], [verse["book"]])
        if chapter != (verse["book"], verse["chapter"]):
            chapter = (verse["book"], verse["chapter"])
            lines.append("")
        lines.append(verse["text"])
    for name, lines in books.items():
        yield Document(name, "\n".join(lines))


def _objects(members: dict[PurePosixPath, bytes]) -> Iterable[Document]:
    """One document a vector of lines in R's database, whose index and data are two members."""
    files = {path.suffix: data for path, data in members.items()}
    if set(files) != {".rdx", ".rdb"}:
        raise ValueError(f"an R database is an .rdx and an .rdb, found {sorted(files)}")
    for name, lines in read_lazy_lines(files[".rdx"], files[".rdb"]).items():
        yield Document(name, "\n".join(lines))


def _clean(text: str, cut: tuple[str, ...]) -> str:
    """Line ends as \\n, without what the edition added."""
    text = text.replace("\r\n", "\n")
    for pattern in cut:
        text = re.sub(pattern, "", text)
    return text.strip()
