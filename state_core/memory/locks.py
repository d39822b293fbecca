"""Who may work on a memory: many searches or one change within a process, one writing process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from state_core.errors import StoreError

LOCK_FILE = "lock"


class SharedLock:
    """Held by many readers or by one writer; a waiting writer keeps new readers out."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers, self._waiting, self._writing = 0, 0, False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Beside other readers."""
        with self._condition:
            self._condition.wait_for(lambda: not (self._writing or self._waiting))
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Alone."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not (self._writing or self._readers))
            finally:  # an interrupt must not keep readers out for ever
                self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


def lock_folder(folder: Path) -> int:
    """Become the folder's one writer, until `unlock_folder` or the end of the process.

    StoreError if there is one already.
    """
    try:
        import fcntl
    except ImportError:
        raise StoreError(
            f"{folder} cannot be written on this system, which has no fcntl: open it with "
            "read_only=True, or leave out the path"
        ) from None
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreError(
            f"{folder} is open for writing elsewhere: close it there, or open it read_only=True"
        ) from None
    return handle


def unlock_folder(handle: int) -> None:
    """Let another process write, even if a child of ours still has the file open."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
