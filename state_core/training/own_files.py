"""The user's own text: a file, a folder or a glob, one document a file."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

from state_core.errors import DataError

_GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG.*$", re.M | re.I)
_GUTENBERG_END = re.compile(r"^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG.*$", re.M | re.I)


class Document(NamedTuple):
    """One text with a name."""

    name: str
    text: str


def is_path(source: str) -> bool:
    """Whether a source names files rather than a corpus."""
    return any(c in source for c in "/\\*?[.~") or Path(source).exists()


def read_own_files(source: str) -> list[Document]:
    """The documents of a file, a folder (all files in it, hidden ones aside) or a glob.

    DataError says which file is missing, empty or not UTF-8 text, and what to do.
    """
    files, root = _find(source)
    return [Document(_name(file, root), read_text(file)) for file in files]


def read_text(path: Path) -> str:
    """A file's text: UTF-8, line ends as \\n, without a Project Gutenberg header and footer."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if b"\0" in data[: 1 << 16]:
        raise DataError(
            f"{path} is not a text file: it holds zero bytes. Name the text files only, with a "
            f"glob such as '{path.parent}/*.txt'; a UTF-16 text must be saved as UTF-8 first"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). If it is an older "
            f"text, convert it: iconv -f latin1 -t utf-8 {path.name} > converted.txt"
        ) from error
    text = strip_gutenberg(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text:
        raise DataError(f"{path} is empty: a document needs text")
    return text


def strip_gutenberg(text: str) -> str:
    """Cut Project Gutenberg's header and licence, which are the same in every book."""
    if start := _GUTENBERG_START.search(text):
        text = text[start.end() :]
    if end := _GUTENBERG_END.search(text):
        text = text[: end.start()]
    return text


def _find(source: str) -> tuple[list[Path], Path]:
    path = Path(source).expanduser()
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
        root = path
    else:
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        root = Path()
    if not found:
        kind = (
            "holds no files" if path.is_dir() else "does not exist, and as a glob matches no file"
        )
        raise DataError(f"{source!r} {kind}. Give a text file, a folder of them, or a glob")
    return sorted(found), root


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
