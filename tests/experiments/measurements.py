"""Measurements for the ledger's tests, which run in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import torch

from experiments.ledger import Measured, NotMeasurableError, Setting


def counts(setting: Setting) -> Measured:
    """One value a seed, and a line in a file for each time that it was measured."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    setting.data.add("a hash")
    with (setting.folder / "counted").open("a") as file:
        print(setting.threads, file=file)
    return {"q": [1.0 + seed for seed in setting.seeds]}


def fails(setting: Setting) -> Measured:
    raise ZeroDivisionError("one cannot")


def dies(setting: Setting) -> Measured:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def lacks(setting: Setting) -> Measured:
    raise NotMeasurableError("needs something rare")


def rambles(setting: Setting) -> Measured:
    return {"something else": [1.0]}


def holds(mebibytes: int) -> Callable[[], object]:
    """A call that holds so much memory, every page of it touched, besides as much that its
    preparation keeps."""
    kept = torch.ones(mebibytes, 2**18)
    return lambda: kept + 1
