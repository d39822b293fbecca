"""The errors a user can meet, each saying what was wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SOSMError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(SOSMError, ValueError):
    """A configuration that cannot be built: unknown key, wrong type, impossible combination."""


class InputError(SOSMError, ValueError):
    """Input of the wrong shape, dtype or range, or with NaN in it."""


class BackendError(SOSMError, RuntimeError):
    """A backend was asked for by name and cannot run here."""


class DataError(SOSMError, RuntimeError):
    """A corpus is missing, empty, not text, altered, or cannot be fetched."""


class CheckpointError(SOSMError, RuntimeError):
    """A checkpoint is missing, truncated, altered, or of another model."""


class TrainingError(SOSMError, RuntimeError):
    """Training cannot go on: the loss or a gradient is not finite."""


class StorageError(SOSMError, OSError):
    """A file could not be written: the disk is full, or the folder is not writable."""


class StoreError(SOSMError, RuntimeError):
    """A memory on disk is missing, truncated, altered, of another kind, or written by another."""


class CausalityError(SOSMError, RuntimeError):
    """A model lets a position see what follows it; no perplexity of it means anything."""


class MissingExtraError(SOSMError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it with: pip install 'state-core[{extra}]' -c constraints.txt"
        )


def nearest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """A hint that lists the valid names closest to `name`, or all of them if none is close."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "valid names: " + ", ".join(names)
