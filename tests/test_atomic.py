from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from state_core import atomic
from state_core.errors import StorageError

KILLED_WRITER = """
import sys
from state_core.atomic import atomic_write_bytes
path, size = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
while True:
    for byte in b"ab":
        atomic_write_bytes(path, bytes([byte]) * size)
"""


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(atomic.TEMPORARY + "*"))


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    atomic.atomic_write_json(path, {"a": 1})
    atomic.atomic_write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert not leftovers(path.parent)


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    atomic.atomic_write_text(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_refuses_nan_and_keeps_the_old(tmp_path: Path) -> None:
    atomic.atomic_write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        atomic.atomic_write_json(tmp_path / "x.json", float("nan"))
    assert (tmp_path / "x.json").read_text() == "1\n"


def test_tensors_of_any_layout(tmp_path: Path) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    atomic.atomic_save_tensors(tmp_path / "t.safetensors", {"xt": x.T}, {"k": "v"})
    assert torch.equal(load_file(tmp_path / "t.safetensors")["xt"], x.T)


def test_an_error_while_writing_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.atomic_write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*unchanged"):
        atomic.atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_a_disk_that_really_ends_keeps_the_old_tensors(tmp_path: Path) -> None:
    """The limit on a file's size makes the system refuse the write, as a full disk does."""
    path = tmp_path / "t.safetensors"
    atomic.atomic_save_tensors(path, {"x": torch.zeros(8)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            atomic.atomic_save_tensors(path, {"x": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(load_file(path)["x"], torch.zeros(8))
    assert not leftovers(tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(KeyError), atomic.atomic_directory(target) as temporary:
        (temporary / "a").write_text({}["half"])
    assert not target.exists()
    for text in ("one", "two"):
        with atomic.atomic_directory(target) as temporary:
            (temporary / "a").write_text(text)
            assert not target.exists() or (target / "a").read_text() != text
    assert (target / "a").read_text() == "two"
    assert not leftovers(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StorageError, match="cannot write"),
        atomic.atomic_directory(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.05])
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, delay: float) -> None:
    path, size = tmp_path / "file", 1 << 20
    atomic.atomic_write_bytes(path, b"a" * size)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(path), str(size)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    data = path.read_bytes()
    assert len(data) == size
    assert len(set(data)) == 1
    atomic.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert atomic.sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")
