"""A writer that is killed at any moment loses nothing that was acknowledged (I8)."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from state_core import memory

POINTS = {"milvus": 100}  # starting one takes long; others 1000
FAST = {"milvus": 4}  # others 30
# What a process wrote survives its death in main memory too, and there fsync costs nothing.
FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def kill(points: dict[str, int]) -> None:
    words = [str(word) for pair in points.items() for word in pair]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.memory.kills", folder, *words],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, times in points.items():
        assert re.search(rf"{kind}: \d+ changes survived {times} kills", done.stdout)


def test_kills():
    kill({kind: FAST.get(kind, 30) for kind in memory.KINDS})


@pytest.mark.slow
@pytest.mark.parametrize("kind", memory.KINDS)
def test_many_kills(kind: str):
    kill({kind: POINTS.get(kind, 1000)})
