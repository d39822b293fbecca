from __future__ import annotations

from pathlib import Path

import pytest

from state_core.errors import DataError
from state_core.training.own_files import read_own_files, read_text


def test_a_folder_leaves_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("one\r\ntwo")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "a.txt").write_text("\ufeffbom", encoding="utf-8")
    assert read_own_files(str(tmp_path)) == [("a.txt", "bom"), ("b/x.txt", "one\ntwo")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\0\0", "not a text file"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"caf\xe9", "iconv -f latin1"),
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "x.txt")


def test_missing_files_are_an_error(tmp_path: Path) -> None:
    for source in (tmp_path / "none.txt", tmp_path / "*.txt"):
        with pytest.raises(DataError, match="does not exist"):
            read_own_files(str(source))
    with pytest.raises(DataError, match="holds no files"):
        read_own_files(str(tmp_path))


def test_project_gutenbergs_header_and_licence_go(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(
        "Licence\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nStory.\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nMore licence\n"
    )
    assert read_text(tmp_path / "x.txt") == "Story."
