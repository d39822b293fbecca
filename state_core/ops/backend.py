"""Which implementation of an op runs, and why.

Every op is a folder with `naive.py` (the reference) and faster backends beside it. The op's
`__init__.py` declares an `Op`; calling `op.select(backend, device)` imports the chosen module on
first use and returns its function, so that `import state_core` needs neither Numba nor Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from state_core.errors import BackendError, nearest

log = logging.getLogger("state_core")

REGISTRY: dict[str, Op] = {}
# A plain dict, which torch.compile traces through; it traces neither an import nor a logger.
_loaded: dict[tuple[str, str, str], Callable[..., Any]] = {}
_preferred = "auto"


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Within this block, ops called with backend="auto" use `backend`: a whole model run on its
    reference is `with use_backend("naive"): model(ids)`."""
    global _preferred
    before, _preferred = _preferred, backend
    try:
        yield
    finally:
        _preferred = before


@dataclass(frozen=True)
class Backend:
    """One implementation: `module` holds a function named like the op."""

    module: str
    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "meta")
    requires: tuple[str, ...] = ()

    def missing(self, device: str) -> str | None:
        """Why this backend cannot run on `device`, or None if it can."""
        if device not in self.devices and not (device == "cpu" and self._interpreted()):
            if "triton" in self.requires and device == "cpu":
                return "runs on cuda; on a CPU only in Triton's interpreter (TRITON_INTERPRET=1)"
            return f"runs on {'/'.join(self.devices)}, not on {device}"
        absent = [name for name in self.requires if not _installed(name)]
        return f"{', '.join(absent)} is not installed" if absent else None

    def _interpreted(self) -> bool:
        return "triton" in self.requires and os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Op:
    """An op and its backends, the preferred first. Declaring one registers it."""

    name: str
    backends: dict[str, Backend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        REGISTRY[self.name] = self

    def choose(self, backend: str, device: str) -> tuple[str, str]:
        """The backend's name and the reason for it; BackendError if it cannot run."""
        if backend != "auto":
            if backend not in self.backends:
                hint = nearest(backend, ["auto", *self.backends])
                raise BackendError(f"{self.name} has no backend {backend!r}: {hint}")
            why_not = self.backends[backend].missing(device)
            if why_not:
                raise BackendError(f"{self.name}: backend {backend!r} cannot be used: {why_not}")
            return backend, "asked for"
        passed: list[str] = []
        for name, candidate in self.backends.items():
            why_not = candidate.missing(device)
            if why_not is None and device not in candidate.devices:
                why_not = "an interpreter, for tests that ask for it"
            if why_not is None:
                return name, "; ".join(passed) or "the fastest one"
            passed.append(f"{name}: {why_not}")
        raise BackendError(f"{self.name} cannot run on {device}: {'; '.join(passed)}")

    def select(self, backend: str, device: torch.device) -> Callable[..., Any]:
        """The implementing function for tensors on `device`."""
        key = (self.name, _preferred if backend == "auto" else backend, device.type)
        return _loaded.get(key) or _load(*key)


@cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _load(op: str, backend: str, device: str) -> Callable[..., Any]:
    name, why = REGISTRY[op].choose(backend, device)
    if backend == "auto":
        log.info("%s on %s uses backend %s (%s)", op, device, name, why)
    module = importlib.import_module(REGISTRY[op].backends[name].module)
    return _loaded.setdefault((op, backend, device), getattr(module, op))
