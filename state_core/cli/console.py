"""Where the commands write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def status(message: str) -> None:
    """A line about what is being done. It goes to stderr, so that stdout holds results alone."""
    errors.print(message, style="dim", markup=False, soft_wrap=True)


def pipe_friendly(text: str) -> None:
    """Text as it is, for a pipe as well as for a terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; call what it gives with how much is done, and of how much."""
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)
