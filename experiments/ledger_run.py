"""Measures claims: each in a process of its own, several at a time, here or over machines by Ray.

A process of its own sets its threads before torch starts, takes no other row's leftovers for its
memory, and takes no other row with it when it dies. A record is written when its row ends, so that
a run that was stopped goes on where it was: what was measured with the same row, setting and
measuring function is not measured again; what failed is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.ledger import ROOT, Claim, Measured, NotMeasurableError, Setting
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.errors import DataError, MissingExtraError

SCHEMA = 1
MEASURED, UNMEASURABLE, FAILED = "measured", "not measurable", "error"
# What other machines do not need of a checkout.
LEFT_BEHIND = [".git", ".venv", "runs", "docs", "notebooks", "**/__pycache__"]


@dataclass(frozen=True)
class Record:
    """What came of measuring a claim."""

    id: str
    budget: str
    digest: str
    """Of the row, the setting and the measuring function (`Claim.digest`)."""
    outcome: str
    values: Measured = field(default_factory=dict)
    message: str = ""
    """Why there are no values."""
    traceback: str = ""
    """While it travels, the traceback; once saved, the name of the file beside the record."""
    seconds: float = 0.0
    spent: dict[str, Any] = field(default_factory=dict)
    """Seeds, steps, tokens of a batch and threads."""
    data: list[str] = field(default_factory=list)
    """Hashes of the training data."""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    schema: int = SCHEMA

    @classmethod
    def read(cls, path: Path) -> Record:
        """What `save` wrote; DataError if it is no such file."""
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no record of a claim: {error}") from None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Record:
        """From JSON; ValueError if it is of another kind or schema."""
        try:
            record = cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if record.schema != SCHEMA:
            raise ValueError(f"it has schema {record.schema}, this version reads {SCHEMA}")
        return record

    def save(self, out: Path) -> None:
        """Write it where `path_of` says, and its traceback beside it."""
        path = path_of(out, self.budget, self.id)
        beside = path.with_name(f"{self.id}.traceback.txt")
        if self.traceback:
            atomic_write_text(beside, self.traceback)
        else:
            beside.unlink(missing_ok=True)  # of an earlier failure
        record = replace(self, traceback=beside.name if self.traceback else "")
        atomic_write_json(path, asdict(record))


def path_of(out: Path, budget: str, claim: str) -> Path:
    """Where the record of a claim is kept."""
    return out / budget / f"{claim}.json"


@dataclass
class Watcher:
    """What is told while claims run; begins may be called from several threads."""

    begins: Callable[[Claim], None] = lambda claim: None
    ends: Callable[[Claim, Record, int, float], None] = lambda claim, record, done, left: None
    """With how many rows are done, and about how many seconds are left."""


def run_claims(
    claims: list[Claim],
    budget: str,
    out: Path,
    *,
    jobs: int,
    threads: int,
    ray: str | None = None,
    watcher: Watcher | None = None,
) -> list[Record]:
    """Measure what was not measured yet; the records of all, in the order of `claims`.

    jobs: rows at a time; a row that must be alone runs by itself, with all `threads`, of which the
    others get equal shares. ray: "local", or the address of a cluster, whose machines take the
    place of jobs. A row that fails becomes a record that says so.
    """
    watcher = watcher or Watcher()
    together = Setting.of(budget, out.resolve() / "trained" / budget, max(1, threads // jobs))
    alone = replace(together, threads=threads)
    found: dict[str, Record] = {}
    left: list[tuple[Claim, Setting]] = []
    for claim in claims:
        known = _known(claim, together, out)
        if known is None:
            left.append((claim, alone if claim.alone else together))
            continue
        found[claim.id] = known
        watcher.ends(claim, known, len(found), 0.0)

    made = _by_ray(left, ray, watcher) if ray else _locally(left, jobs, watcher)
    at, began = commit(), time.monotonic()
    for number, (claim, record) in enumerate(made, start=1):
        found[claim.id] = record = replace(record, commit=at)
        record.save(out)
        each = (time.monotonic() - began) / number
        watcher.ends(claim, record, len(found), each * (len(left) - number))
    return [found[c.id] for c in claims]


def in_process(claim: Claim, setting: Setting) -> Record:
    """Measure a claim in a process of its own, which may fail as it likes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "record.json"
        asked = {**asdict(setting), "folder": str(setting.folder), "data": []}
        given = [claim.model_dump_json(by_alias=True), json.dumps(asked), str(result)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.ledger_run", *given],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(setting.threads)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if result.is_file():
            return Record.read(result)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return Record(
        claim.id,
        setting.budget,
        claim.digest(setting),
        FAILED,
        message=f"its process ended with status {done.returncode}: {last}",
        traceback=done.stderr,
        spent=_spent(setting),
    )


def measure(claim: Claim, setting: Setting) -> Record:
    """Measure a claim here and now; a measurement that fails becomes a record that says so."""
    import torch

    from state_core.machine import machine, versions

    began = time.perf_counter()
    values: Measured = {}
    outcome, message, trace = MEASURED, "", ""
    try:
        if claim.needs == "gpu" and not torch.cuda.is_available():
            raise NotMeasurableError("needs a CUDA device")
        values = claim.function()(setting)
        claim.check(values)
    except (NotMeasurableError, MissingExtraError) as error:
        outcome, message = UNMEASURABLE, str(error)
    except Exception as error:  # whatever a row does wrong, the others are measured
        outcome, values = FAILED, {}
        message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    device = torch.device("cuda" if claim.needs == "gpu" and outcome == MEASURED else "cpu")
    return Record(
        claim.id,
        setting.budget,
        claim.digest(setting),
        outcome,
        values,
        message,
        trace,
        time.perf_counter() - began,
        _spent(setting),
        sorted(setting.data),
        machine(device),
        versions(),
    )


def commit() -> str:
    """The commit of the checkout, with a + if files differ from it; empty outside of git."""
    said = []
    for asked in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain"]):
        command = ["git", "-C", str(ROOT), *asked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")


def _known(claim: Claim, setting: Setting, out: Path) -> Record | None:
    """What an earlier run measured, if it is what this one would."""
    path = path_of(out, setting.budget, claim.id)
    if not path.is_file():
        return None
    record = Record.read(path)
    fits = record.outcome == MEASURED and record.digest == claim.digest(setting)
    return record if fits else None


Made = Iterator[tuple[Claim, Record]]


def _locally(rows: list[tuple[Claim, Setting]], jobs: int, watcher: Watcher) -> Made:
    """Rows side by side, then those that must be alone, one by one."""

    def work(claim: Claim, setting: Setting) -> Record:
        watcher.begins(claim)
        return in_process(claim, setting)

    for chosen, workers in ((False, jobs), (True, 1)):
        pool = ThreadPoolExecutor(workers)
        futures: dict[Future[Record], Claim] = {
            pool.submit(work, claim, setting): claim
            for claim, setting in rows
            if claim.alone is chosen
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # after Ctrl-C, which ends the processes as well, nothing new begins
            pool.shutdown(cancel_futures=True)


def _by_ray(rows: list[tuple[Claim, Setting]], address: str, watcher: Watcher) -> Made:
    """Rows over the machines of a cluster: a row that must be alone takes a whole machine, of the
    largest kind, one that needs a GPU takes one if there is any."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "cluster", "measuring over machines") from None
    ray.init(
        address=None if address == "local" else address,
        runtime_env={"working_dir": str(ROOT), "excludes": LEFT_BEHIND},
        log_to_driver=False,
    )
    try:
        whole = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        gpus = min(1, ray.cluster_resources().get("GPU", 0))
        remote = ray.remote(_on_machine)
        waiting = {}
        for claim, setting in rows:
            needs = {
                "num_cpus": whole if claim.alone else min(whole, setting.threads),
                "num_gpus": gpus if claim.needs == "gpu" else 0,
            }
            spends = {**asdict(setting), "threads": int(needs["num_cpus"])}
            waiting[remote.options(**needs).remote(claim.model_dump(by_alias=True), spends)] = (
                claim,
                setting,
            )
            watcher.begins(claim)
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            claim, setting = waiting.pop(done)
            yield claim, _fetched(ray, done, claim, setting)
    finally:
        ray.shutdown()


def _on_machine(row: dict[str, Any], spends: dict[str, Any]) -> dict[str, Any]:
    """`in_process` on another machine, in plain types."""
    return asdict(in_process(Claim.model_validate(row), Setting(**spends)))


def _fetched(ray: Any, reference: Any, claim: Claim, setting: Setting) -> Record:
    try:
        return Record.of(ray.get(reference))
    except ray.exceptions.RayError as error:
        lost = f"its machine was lost, or has not what it needs: {type(error).__name__}"
        digest = claim.digest(setting)
        return Record(claim.id, setting.budget, digest, FAILED, message=lost, traceback=str(error))


def _spent(setting: Setting) -> dict[str, Any]:
    kept = ("seeds", "steps", "batch", "threads")
    return {name: getattr(setting, name) for name in kept}


def _main(row: str, asked: str, result: str) -> None:
    """What `in_process` starts."""
    import torch

    spends = json.loads(asked)
    spends |= {"seeds": tuple(spends["seeds"]), "folder": Path(spends["folder"]), "data": set()}
    setting = Setting(**spends)
    torch.set_num_threads(setting.threads)
    record = measure(Claim.model_validate_json(row), setting)
    atomic_write_json(result, asdict(record))


if __name__ == "__main__":
    _main(*sys.argv[1:])
