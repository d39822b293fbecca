"""Lets the allocator keep large blocks.

glibc returns every large block to the system when it is freed, and the next step takes a page fault
for each of its 4 KiB when it touches the memory again. A training loop frees and asks for the same
sizes at every step; keeping them costs no more than the peak does.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_UP_TO = 1 << 30  # glibc caps the mmap threshold itself; larger values are ignored


def keep_large_blocks() -> bool:
    """Make freed blocks reusable instead of returning them; False where the libc is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((M_MMAP_THRESHOLD, KEEP_UP_TO), (M_TRIM_THRESHOLD, KEEP_UP_TO))
    return all(libc.mallopt(option, value) == 1 for option, value in settings)
