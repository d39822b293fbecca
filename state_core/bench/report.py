"""The record of a benchmark run: what was measured, on what, and how it grows with size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from state_core.atomic import atomic_write_json
from state_core.bench.case import Comparison, Shape
from state_core.bench.timing import Spread, growth_exponent
from state_core.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """One case at one size. Nothing is timed, and `seconds` stays empty, when a check failed."""

    case: str
    shape: Shape
    axis: str
    checks: list[Comparison]
    seconds: dict[str, Spread] = field(default_factory=dict)
    ratio: dict[str, Spread] = field(default_factory=dict)
    """Peer → how many times longer than us it took."""
    rounds: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    """Contender → bytes at its peak beyond its inputs."""
    figures: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Peer → why it did not run and how to get it."""

    @property
    def size(self) -> int:
        """Along the case's axis."""
        return self.shape[self.axis]

    @property
    def fixed(self) -> str:
        """The other sizes."""
        return " ".join(f"{k}{v}" for k, v in self.shape.items() if k != self.axis)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Report:
    """A whole run."""

    machine: dict[str, Any]
    versions: dict[str, str]
    device: str
    quick: bool
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every correctness check passed; says nothing about speed."""
        return all(result.passed for result in self.results)

    def growth(self) -> list[dict[str, Any]]:
        """Exponents of time and memory, per contender, over results that differ in size alone."""
        rows: list[dict[str, Any]] = []
        for results in self.series():
            where = {"case": results[0].case, "fixed": results[0].fixed}
            for contender in dict.fromkeys(c for r in results for c in r.seconds):
                exponents = _exponents(results, contender)
                if exponents:
                    rows.append({**where, "contender": contender, **exponents})
        return rows

    def series(self) -> list[list[Result]]:
        """The results, grouped into those that differ in size alone."""
        series: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            series.setdefault((result.case, result.fixed), []).append(result)
        return list(series.values())

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, atomically."""
        record = {"schema": SCHEMA, **asdict(self), "growth": self.growth()}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, record)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote; DataError if it is no such file."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise DataError(
                    f"{path} has schema {record['schema']}, this version reads {SCHEMA}"
                )
            results = [_result(r) for r in record["results"]]
            kept = {k: record[k] for k in ("machine", "versions", "device", "quick")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a benchmark report: {error}") from None
        return cls(**kept, results=results)


def _exponents(results: list[Result], contender: str) -> dict[str, float]:
    exponents = {}
    timed = [(r.size, r.seconds[contender].median) for r in results if contender in r.seconds]
    held = [(r.size, r.memory[contender]) for r in results if r.memory.get(contender)]
    for what, points in (("time", timed), ("memory", held)):
        if len({size for size, _ in points}) > 1:
            exponents[what] = round(growth_exponent(*zip(*points)), 3)
    return exponents


def _result(record: dict[str, Any]) -> Result:
    spreads = {
        key: {name: Spread(**values) for name, values in record[key].items()}
        for key in ("seconds", "ratio")
    }
    checks = [Comparison(**check) for check in record["checks"]]
    return Result(**{**record, **spreads, "checks": checks})
