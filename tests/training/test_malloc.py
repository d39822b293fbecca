from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from state_core.training import malloc

TOUCH = """
import resource, sys, torch
from state_core.training.malloc import keep_large_blocks
assert sys.argv[1] == "False" or keep_large_blocks()
def step():
    torch.ones(1 << 24)  # 64 MiB
for _ in range(30):  # the heap settles
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    run = [sys.executable, "-c", TOUCH, str(keep)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's allocator")
def test_a_freed_block_is_used_again() -> None:
    pages = 5 * (1 << 26) // resource.getpagesize()
    returned, kept = faults(keep=False), faults(keep=True)
    assert kept < pages / 10
    assert kept <= returned  # huge pages take few faults either way


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not malloc.keep_large_blocks()
