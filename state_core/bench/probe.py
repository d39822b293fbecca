"""The process in which one peak is measured.

python -m state_core.bench.probe CASE CONTENDER '{"T": 4096}' cpu

prints the bytes that one call needs at its peak.
"""

from __future__ import annotations

import json
import sys

import torch

from state_core.bench import CASES
from state_core.bench.memory import measure


def main(case_name: str, contender_name: str, shape: str, device_name: str) -> None:
    """Measure one call of a contender at a shape, given as JSON."""
    case, device = CASES[case_name], torch.device(device_name)
    contender = case.contender(contender_name)
    contender.prepare(case.inputs(case.quick[0], device))()  # compiles, and starts thread pools
    thunk = contender.prepare(case.inputs(json.loads(shape), device))
    print(measure(thunk, device))


if __name__ == "__main__":
    main(*sys.argv[1:])
