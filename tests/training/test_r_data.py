from __future__ import annotations

import gzip
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import DataError
from state_core.training.r_data import read_lazy_lines
from tests.training.r_files import HEADER, lazy_database, strings, word

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5)


@given(objects=st.dictionaries(st.text("abcé", min_size=1), LINES, min_size=1, max_size=4))
def test_lines_come_back_by_name(objects: dict[str, list[str]]) -> None:
    assert read_lazy_lines(*lazy_database(objects)) == objects


def test_latin_1_is_told_by_its_flag() -> None:
    objects = {"a": ["café", "£5", "plain"]}
    assert read_lazy_lines(*lazy_database(objects, "latin-1")) == objects


def test_an_index_may_be_gzipped_and_of_the_older_version() -> None:
    index, data = lazy_database({"a": ["x"]})
    older = b"X\n" + word(2, 0, 0) + zlib.decompress(index)[len(HEADER) :]
    assert read_lazy_lines(gzip.compress(older), data) == {"a": ["x"]}


def object_of(raw: bytes) -> tuple[bytes, bytes]:
    """A database whose one object is `raw`."""
    packed = struct.pack(">I", len(raw)) + zlib.compress(raw)
    index, _ = lazy_database({"a": []})
    old = word(13, 2, 0, len(lazy_database({"a": []})[1]))
    swapped = zlib.decompress(index).replace(old, word(13, 2, 0, len(packed)))
    return zlib.compress(swapped), packed


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (HEADER + word(13, 1, 7), "'a' .* is not a vector of character strings"),
        (HEADER + word(14, 1) + b"\0" * 8, "type 14"),
        (HEADER + word(16, 1, 9, -1), "missing"),
        (HEADER + strings(["text"])[:-2], "ends too early"),
        (b"A\n", "does not begin with X"),
        (b"X\n" + word(9, 0, 0), "version 9"),
    ],
)
def test_anything_else_is_an_error(raw: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_lazy_lines(*object_of(raw))


@pytest.mark.parametrize("index", [b"", b"no zlib", zlib.compress(HEADER + word(254))])
def test_a_broken_index_is_an_error(index: bytes) -> None:
    with pytest.raises(DataError, match="not a lazy-load database"):
        read_lazy_lines(index, b"")
