"""Runs cases: correctness first, and only then time and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from state_core.bench.case import CASES, OURS, Case, Shape, Thunk
from state_core.bench.memory import peak_memory
from state_core.bench.report import Report, Result
from state_core.bench.timing import Spread, interleave, ratios
from state_core.errors import BackendError, ConfigError, nearest
from state_core.machine import machine, versions
from state_core.training.malloc import keep_large_blocks

GROUPS = ("ops", "model")
Progress = Callable[[str], None]


def run(
    *names: str,
    device: str = "cpu",
    quick: bool = False,
    memory: bool = True,
    budget: float = 10.0,
    progress: Progress = print,
) -> Report:
    """Compare ops and the model with their peers.

    names:    cases, and groups of them: "ops", "model", "all". None means all.
    quick:    small sizes, few rounds and no memory, to test the benchmark itself in seconds.
    memory:   also measure peak memory, in a process per contender and size.
    budget:   seconds of timing per case and size, beyond the least number of rounds.
    progress: told, in a line, what is being done.

    Raises ConfigError for an unknown name, BackendError for a device that is not there.
    """
    target = _device(device)
    # As in training: page faults would be timed instead of arithmetic, ours and the peers' alike.
    keep_large_blocks()
    report = Report(machine(target), versions(), device, quick)
    for case in select(*names):
        progress(f"{case.name}: {case.about}")
        report.results.extend(
            _run_case(case, target, quick, memory and not quick, 0.0 if quick else budget, progress)
        )
    return report


def select(*names: str) -> list[Case]:
    """The registered cases that are named, or whose group is; all of them for no name."""
    ordered = sorted(CASES.values(), key=lambda case: GROUPS.index(case.group))
    known = ("all", *GROUPS, *CASES)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown benchmark {name!r}: {nearest(name, known)}")
    wanted = {"all"} if not names else set(names)
    return [case for case in ordered if wanted & {"all", case.group, case.name}]


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("there is no CUDA device here: leave out --device, or use --device cpu")
    return device


def _run_case(
    case: Case, device: torch.device, quick: bool, memory: bool, budget: float, progress: Progress
) -> list[Result]:
    checks = case.check(device)
    failed = [check for check in checks if not check.passed]
    sizes = case.quick if quick else case.sizes
    if failed:
        progress(f"  differs from {failed[0].against}: not timed")
        return [Result(case.name, dict(shape), case.axis, checks) for shape in sizes[:1]]
    results = []
    for shape in sizes:
        progress(f"  {_spell(shape)}")
        parts = _measure(case, shape, device, budget)
        held = _memory(case, shape, device, list(parts["seconds"])) if memory else {}
        results.append(Result(case.name, dict(shape), case.axis, checks, memory=held, **parts))
    return results


def _measure(case: Case, shape: Shape, device: torch.device, budget: float) -> dict[str, Any]:
    inputs = case.inputs(shape, device)
    absent = {c.name: c.missing(device, shape[case.axis]) for c in case.contenders}
    missing = {name: why for name, why in absent.items() if why}
    thunks: dict[str, Thunk] = {
        c.name: c.prepare(inputs) for c in case.contenders if c.name not in missing
    }
    seconds = interleave(thunks, device, budget)
    peers = [name for name in thunks if name != OURS]
    return {
        "seconds": {name: Spread.of(values) for name, values in seconds.items()},
        "ratio": {peer: Spread.of(ratios(seconds[OURS], seconds[peer])) for peer in peers},
        "rounds": len(seconds[OURS]),
        "figures": case.figures(inputs) if case.figures else {},
        "missing": missing,
    }


def _memory(
    case: Case, shape: Shape, device: torch.device, contenders: list[str]
) -> dict[str, int]:
    return {name: peak_memory(case.name, name, shape, device) for name in contenders}


def _spell(shape: Shape) -> str:
    return " ".join(f"{name}={size}" for name, size in shape.items())
