"""The ledger of claims: every number that the design's sources promised, and how it is measured.

A row of claims.toml names a promise, the function that measures it, and within which bounds its
quantities reproduce it. The function gets a `Setting`, which says what it may spend, and returns
one value per seed or repeat of each quantity:

    def streaming_top_k_memory(setting: Setting) -> Measured:
        return {"growth exponent of peak memory": [1.01, 0.99, 1.02]}

A verdict is read off the mean, and says when its 95 % interval reaches over a bound. Nothing here
measures: `ledger_run` does, and `ledger_report` tells what was found.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from state_core.errors import ConfigError, MissingExtraError, SOSMError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CLAIMS = Path(__file__).with_name("claims.toml")
CONFIDENCE = 0.95

Measured = dict[str, list[float]]
"""Quantity → one value per seed or repeat."""
Budget = Literal["quick", "standard", "full"]
# Seeds, steps of a training run, and tokens of what is measured.
BUDGETS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "quick": ((0, 1, 2), 30, 2048),
    "standard": ((0, 1, 2), 150, 4096),
    "full": ((0, 1, 2, 3, 4), 1000, 4096),
}


class NotMeasurableError(SOSMError, RuntimeError):
    """A measurement raises it where it cannot be made, and says what it needs."""


@dataclass(frozen=True)
class Setting:
    """What a measurement may spend."""

    budget: str
    seeds: tuple[int, ...]
    steps: int
    """Optimiser steps of a training run."""
    tokens: int
    """Tokens of a text or batch that is measured, about."""
    folder: Path
    """Where training runs are kept, so that claims share them and a rerun resumes."""
    threads: int
    data: set[str] = field(default_factory=set, compare=False)
    """Hashes of the training data read; what trains adds to it, for the record."""

    @classmethod
    def of(cls, budget: str, folder: Path, threads: int) -> Setting:
        """The setting of a named budget; ConfigError for another name."""
        if budget not in BUDGETS:
            raise ConfigError(f"unknown budget {budget!r}: {nearest(budget, BUDGETS)}")
        return cls(budget, *BUDGETS[budget], folder, threads)

    @property
    def batch(self) -> int:
        """Tokens of a batch that is trained on, about. Half as many in the standard budget, which
        trains for most of its time."""
        return {"standard": self.tokens // 2}.get(self.budget, self.tokens)

    @property
    def seconds(self) -> float:
        """Timing of one repeat beyond the least number of rounds (`measures.speedup`)."""
        return {"quick": 0.5, "standard": 3.0}.get(self.budget, 10.0)

    @property
    def scored(self) -> int | None:
        """Batches of the test text that a trained run is scored on; None: all. Reading all of it
        takes longer than the training of the quick budget."""
        return {"quick": 10}.get(self.budget)


Measure = Callable[[Setting], Measured]


class Row(BaseModel):
    """A table of claims.toml: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Bounds(Row):
    """min ≤ value ≤ max, where given."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bound_something(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("bounds need min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"bounds need min ≤ max, got {self.min} and {self.max}")
        return self

    def hold(self, value: float) -> bool:
        """Whether `value` lies within."""
        above = self.min is None or value >= self.min
        return above and (self.max is None or value <= self.max)

    def within(self, other: Bounds) -> bool:
        """Whether these are no looser than `other`."""
        low = other.min is None or (self.min is not None and self.min >= other.min)
        return low and (other.max is None or (self.max is not None and self.max <= other.max))


class Verdict(str, Enum):
    """What became of a claim, or of one quantity of it."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    REFUTED = "refuted"
    REPORTED = "reported"
    """A quantity that nothing was promised of."""
    UNMEASURABLE = "not measurable here"
    ERROR = "error"
    NOT_RUN = "not run"

    def __str__(self) -> str:
        return self.value


class Quantity(Row):
    """One number of a claim. Without `reproduced` it is reported beside the others, not judged."""

    name: str
    unit: str = ""
    expected: str
    reproduced: Bounds | None = None
    partly: Bounds | None = None

    @model_validator(mode="after")
    def _partly_is_looser(self) -> Quantity:
        if self.partly is None:
            return self
        if self.reproduced is None or not self.reproduced.within(self.partly):
            raise ValueError(f"{self.name}: the bounds of partly must hold those of reproduced")
        return self

    def judge(self, value: float) -> Verdict:
        """The verdict on one value."""
        if self.reproduced is None:
            return Verdict.REPORTED
        if self.reproduced.hold(value):
            return Verdict.REPRODUCED
        if self.partly is not None and self.partly.hold(value):
            return Verdict.PARTLY
        return Verdict.REFUTED


class Claim(Row):
    """A promise, and how it is kept or broken."""

    id: str = Field(pattern=r"^[\w.-]+$")
    phase: int
    item: str
    claim: str
    metric: str
    measure: str = Field(pattern=r"^[\w.]+:\w+$")
    """module:function, the function a `Measure`."""
    quantities: tuple[Quantity, ...] = Field(alias="quantity", min_length=1)
    needs: Literal["gpu"] | None = None
    alone: bool = False
    """Nothing else may run on the machine meanwhile: it takes times."""
    story: str = ""
    """What was promised, what was found, and why."""

    @model_validator(mode="after")
    def _judge_something(self) -> Claim:
        names = [q.name for q in self.quantities]
        if len(set(names)) < len(names):
            raise ValueError(f"two quantities have the same name: {names}")
        if all(q.reproduced is None for q in self.quantities):
            raise ValueError("at least one quantity needs bounds, reproduced = {min = …, max = …}")
        return self

    def function(self) -> Measure:
        """The function that measures it; ConfigError if there is none of that name."""
        module, name = self.measure.split(":")
        found = getattr(importlib.import_module(module), name, None)
        if not callable(found):
            raise ConfigError(f"claim {self.id}: {module} has no function {name}")
        measure: Measure = found
        return measure

    def digest(self, setting: Setting) -> str:
        """Changes with whatever a result depends on in the row, in the setting, and in the code of
        the measuring function itself (not of what it calls), so that no stale result is taken for
        it. Bounds and story are not among it: they judge and tell what was measured already."""
        names = sorted(q.name for q in self.quantities)
        spends = [setting.budget, setting.seeds, setting.steps, setting.tokens, setting.batch]
        said = json.dumps([self.id, self.measure, names, self.needs, spends])
        return hashlib.sha256((said + _source(self.measure)).encode()).hexdigest()[:16]

    def check(self, measured: Measured) -> None:
        """SOSMError if `measured` is not one list of finite numbers for each quantity."""
        wanted, given = {q.name for q in self.quantities}, set(measured)
        if wanted != given:
            raise SOSMError(
                f"{self.measure} must measure {sorted(wanted)}, but gave {sorted(given)}"
            )
        for name, values in measured.items():
            if not values or not all(math.isfinite(value) for value in values):
                raise SOSMError(f"{self.measure}: {name} must be finite numbers, got {values}")


@dataclass(frozen=True)
class Estimate:
    """A quantity over its seeds or repeats: the mean and its 95 % interval by Student's t."""

    quantity: Quantity
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """None for a single value, which has no spread."""
        n = len(self.values)
        if n < 2:
            return None
        half = _t_quantile(n - 1) * statistics.stdev(self.values) / math.sqrt(n)
        return self.mean - half, self.mean + half

    @property
    def verdict(self) -> Verdict:
        return self.quantity.judge(self.mean)

    @property
    def straddles(self) -> bool:
        """Whether the interval reaches over a bound, so that more seeds could turn the verdict."""
        if self.interval is None:
            return False
        low, high = self.interval
        return any(self.quantity.judge(end) != self.verdict for end in (low, high))


def estimates(claim: Claim, measured: Measured) -> list[Estimate]:
    """Each quantity of a claim, in the row's order."""
    return [Estimate(q, tuple(measured[q.name])) for q in claim.quantities]


def overall(found: list[Estimate]) -> Verdict:
    """The verdict on a claim: that of its judged quantities if they agree, partly if not."""
    verdicts = {e.verdict for e in found} - {Verdict.REPORTED}
    return verdicts.pop() if len(verdicts) == 1 else Verdict.PARTLY


def load_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """The rows of a ledger by id; ConfigError names the row that is bad, and why."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("claim", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the claims in {path}: {error}") from None
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, start=1):
        claim = _claim(row, number, path)
        if claim.id in claims:
            raise ConfigError(f"{path.name}: two claims have the id {claim.id!r}")
        claims[claim.id] = claim
    return claims


def select(claims: dict[str, Claim], ids: list[str]) -> list[Claim]:
    """The claims named, in the ledger's order; all for no name. `*` stands for anything: `sosm-1*`
    names those of phase 1. ConfigError for a name that none has."""
    if not ids:
        return list(claims.values())
    for name in ids:
        if not fnmatch.filter(claims, name):
            raise ConfigError(f"unknown claim {name!r}: {nearest(name, claims)}")
    return [c for c in claims.values() if any(fnmatch.fnmatch(c.id, name) for name in ids)]


def _claim(row: dict[str, Any], number: int, path: Path) -> Claim:
    try:
        return Claim.model_validate(row)
    except ValidationError as error:
        name = row.get("id", f"number {number}")
        wrong = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}".lstrip(": ")
            for e in error.errors()
        ]
        raise ConfigError(f"{path.name}, claim {name}: " + "; ".join(wrong)) from None


def _source(measure: str) -> str:
    """What a measuring function says, without its comments, read without importing its module."""
    module, name = measure.split(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.is_file():
        return ""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            told = ast.get_docstring(node) is not None
            return "\n".join(ast.unparse(line) for line in node.body[told:])
    return ""


def _t_quantile(degrees: int) -> float:
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtraError("scipy", "bench", "an interval of a claim") from None
    return float(t.ppf(0.5 + CONFIDENCE / 2, degrees))
